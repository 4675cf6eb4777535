//! The criu program: its version, what it can do, and one conversation with it.

use super::Error;
use crate::create::ChildGuard;
use crate::error::While;
use crate::handshake::{At, Channel, Failure, Message, Step};
use crate::identity;
use crate::plan::Namespaces;
use std::collections::HashSet;
use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wharf_specs::criu::{Features, Message as _, NetworkLock, Request, RequestType, Response};
use wharf_specs::oci::LinuxNamespaceType as Kind;
use wharf_sys::clone::{CloneOptions, spawn};
use wharf_sys::pidfd::{self, Exit};
use wharf_sys::process::{self, CStringArray};
use wharf_sys::{errno, event, fs, socket};

const SIGKILL: i32 = 9;
/// Descriptor of the conversation in criu; those that are handed to it follow.
const SOCKET_NUMBER: i32 = 3;
/// Number in criu of the first descriptor that is handed to it.
pub(super) const FIRST_HANDED: i32 = SOCKET_NUMBER + 1;
/// No answer is longer.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// How long a question about itself may take it, which is a moment.
const QUESTION_LIMIT: Duration = Duration::from_secs(10);
/// As much of criu's standard error as is shown.
const MAX_COMPLAINT_BYTES: usize = 512;

/// A version of criu, such as 3.17.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub sublevel: u32,
}

impl Version {
    /// The first that can do anything here: it tells its version.
    const MINIMUM: Version = Version::new(3, 0);
    /// The first that freezes by the unified hierarchy.
    pub(super) const V2_FREEZER: Version = Version::new(3, 14);
    /// The first that notifies when lazy pages are served.
    pub(super) const STATUS_READY: Version = Version::new(3, 15);
    /// The first that shuts networks by nftables too.
    const NFTABLES: Version = Version::new(3, 17);
    /// The first whose rules have names that a restore knows.
    const NFTABLES_FOUND_AGAIN: Version = Version::new(4, 1);
    /// The first that can give restored processes another security label.
    pub(super) const LABELS: Version = Version::new(3, 16);

    pub(super) const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor, sublevel: 0 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.sublevel == 0 { Ok(()) } else { write!(f, ".{}", self.sublevel) }
    }
}

/// The criu of this machine.
#[derive(Debug)]
pub(super) struct Criu {
    program: PathBuf,
    pub(super) version: Version,
}

/// Standard descriptors of criu. A restored process takes over those that were pipes.
#[derive(Debug)]
pub(super) enum ChildIo {
    /// Nothing to read, nowhere to write; errors are kept for the message.
    Null,
    Inherit,
    Descriptors([OwnedFd; 3]),
}

/// How a criu is started.
pub(super) struct Start<'a> {
    pub(super) options: CloneOptions<'a>,
    pub(super) stdio: ChildIo,
    /// Handed over from [`FIRST_HANDED`] on, in order.
    pub(super) handed: Vec<OwnedFd>,
    /// Called in the child before it becomes criu. The descriptors come back in [`Session::opened`].
    pub(super) prepare: &'a dyn Fn() -> Result<Vec<OwnedFd>, Failure>,
}

impl Criu {
    /// Finds it on the PATH and asks for its version.
    pub(super) fn find() -> Result<Self, crate::Error> {
        let program = on_path("criu").ok_or(Error::Missing)?;
        let mut criu = Self { program, version: Version::new(0, 0) };
        let answer = criu.ask("version", &Request { kind: RequestType::Version.into(), ..Request::default() })?;
        let version = answer.version.unwrap_or_default();
        let number = |number: i32| u32::try_from(number).unwrap_or(0);
        criu.version = Version {
            major: number(version.major),
            minor: number(version.minor),
            sublevel: number(version.sublevel.unwrap_or(0)),
        };
        criu.need(Version::MINIMUM, "checkpoint and restore")?;
        Ok(criu)
    }

    /// How it is to shut the network of a dump: by nftables where the programs that it uses otherwise are missing.
    /// Older versions do not find their rules again in a namespace that outlives the processes.
    pub(super) fn network_lock(&self, namespaces: &Namespaces) -> Result<Option<NetworkLock>, Error> {
        let needed = if namespaces.makes(Kind::Network) { Version::NFTABLES } else { Version::NFTABLES_FOUND_AGAIN };
        match on_path("iptables-restore") {
            None if self.version >= needed => Ok(Some(NetworkLock::Nftables)),
            None if namespaces.separate(Kind::Network) => Err(Error::NoLock { needed }),
            // Only connections are shut in the host's network, and criu says what it misses for that.
            _ => Ok(None),
        }
    }

    /// Refuses a version that is too old for something.
    pub(super) fn need(&self, needed: Version, what: &'static str) -> Result<(), Error> {
        if self.version >= needed {
            return Ok(());
        }
        Err(Error::TooOld { what, needed, found: self.version, program: self.program.clone() })
    }

    /// Refuses an option that needs a feature this criu does not have on this kernel.
    pub(super) fn need_feature(
        &self,
        option: &'static str,
        feature: &'static str,
        wanted: Features,
    ) -> Result<(), crate::Error> {
        let request = Request { kind: RequestType::FeatureCheck.into(), features: Some(wanted), ..Request::default() };
        let found = self.ask("feature check", &request)?.features.unwrap_or_default();
        let missing = |wanted: Option<bool>, found: Option<bool>| wanted == Some(true) && found != Some(true);
        if missing(wanted.mem_track, found.mem_track) || missing(wanted.lazy_pages, found.lazy_pages) {
            return Err(Error::NoFeature { option, feature, version: self.version }.into());
        }
        Ok(())
    }

    /// One question with one answer.
    fn ask(&self, operation: &'static str, request: &Request) -> Result<Response, crate::Error> {
        let start = Start {
            options: CloneOptions::default(),
            stdio: ChildIo::Null,
            handed: Vec::new(),
            prepare: &|| Ok(Vec::new()),
        };
        let session = self.start(operation, start)?;
        session.send(request)?;
        session.wait_until(Instant::now() + QUESTION_LIMIT)?;
        let (answer, _) = session.receive()?;
        if !answer.success {
            return Err(session.failure(&answer, None).into());
        }
        Ok(answer)
    }

    /// Starts a criu that waits for a request.
    pub(super) fn start(&self, operation: &'static str, start: Start<'_>) -> Result<Session, crate::Error> {
        let (socket, theirs) = socket::pair(socket::Kind::SeqPacket).during("make a socket for", "criu")?;
        let (ours, report) = Channel::pair(FIRST_HANDED).during("make a channel to", "criu")?;
        let complaint = fs::memfd(c"criu").during("make a file for", "criu's errors")?;
        let null = std::fs::File::options().read(true).write(true).open("/dev/null").during("open", "/dev/null")?;
        let program = fs::c_path(&self.program).during("run", self.program.display())?;
        let text = |text: &str| CString::new(text).unwrap_or_default();
        let arguments = CStringArray::new(vec![text("criu"), text("swrk"), text(&SOCKET_NUMBER.to_string())]);
        let environment = environment();
        let mut descriptors = vec![theirs];
        descriptors.extend(start.handed);
        let known = children();
        let child = spawn(start.options, || {
            let become_criu = || -> Result<std::convert::Infallible, Failure> {
                identity::reset_signals();
                process::close_on_exec_from(3).at(Step::Stdio, "to be closed")?;
                let opened = (start.prepare)()?;
                let opened: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
                report.send(&Message::Proceed, &opened).at(Step::Handshake, "")?;
                match &start.stdio {
                    ChildIo::Null => identity::place_stdio([null.as_fd(), null.as_fd(), complaint.as_fd()])?,
                    ChildIo::Inherit => {}
                    ChildIo::Descriptors([stdin, stdout, stderr]) => {
                        identity::place_stdio([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
                    }
                }
                // The report must survive the layout of descriptors, which may take its number.
                let above = SOCKET_NUMBER + descriptors.len() as i32;
                let kept = process::duplicate_above(report.as_fd(), above).at(Step::Stdio, "")?;
                identity::place_descriptors(&descriptors)?;
                let error = process::exec(&program, &arguments, &environment);
                let object = program.to_string_lossy().into_owned();
                let failure = Failure { step: Step::Exec, errno: errno::number(&error), object };
                let _ = Channel::from_socket(kept).send(&Message::Failed(failure), &[]);
                process::exit_now(1)
            };
            let Err(failure) = become_criu();
            let _ = report.send(&Message::Failed(failure), &[]);
            1
        })
        .during("clone", "criu")?;
        let child = ChildGuard::new(child);
        drop((descriptors, report));
        let mut opened = Vec::new();
        loop {
            match ours.receive().during("talk to the child that becomes", "criu")? {
                Some((Message::Failed(failure), _)) => return Err(crate::Error::Step(failure)),
                Some((_, descriptors)) => opened = descriptors,
                // Exec closed the channel.
                None => return Ok(Session { operation, child, socket, complaint, known, opened }),
            }
        }
    }
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usable = |path: &PathBuf| path.is_file() && fs::c_path(path).and_then(|path| fs::may_execute(&path)).is_ok();
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(usable)
}

/// A criu at work. Dropped, it is killed and reaped.
pub(super) struct Session {
    operation: &'static str,
    child: ChildGuard,
    socket: OwnedFd,
    /// Its standard error, unless that is a container's.
    complaint: OwnedFd,
    /// What the preparation has opened.
    pub(super) opened: Vec<OwnedFd>,
    /// Children that this process had before.
    known: HashSet<i32>,
}

impl Session {
    pub(super) fn pid(&self) -> i32 {
        self.child.child().pid
    }

    pub(super) fn send(&self, request: &Request) -> Result<(), Error> {
        let operation = self.operation;
        match socket::send(self.socket.as_fd(), &request.encode_to_vec(), &[]) {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.raw_os_error(), Some(errno::EPIPE | errno::ECONNRESET)) => {
                Err(Error::Failed { operation, reason: self.ended(), log: None })
            }
            Err(source) => Err(Error::Talk { operation, source }),
        }
    }

    /// Waits for the next answer.
    pub(super) fn wait_until(&self, deadline: Instant) -> Result<(), Error> {
        let operation = self.operation;
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let left = i32::try_from(left).unwrap_or(i32::MAX);
        match event::wait_readable(self.socket.as_fd(), left) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Late { operation }),
            Err(source) => Err(Error::Talk { operation, source }),
        }
    }

    /// The next answer, with descriptors that came along.
    pub(super) fn receive(&self) -> Result<(Response, Vec<OwnedFd>), Error> {
        let operation = self.operation;
        let mut buffer = vec![0u8; MAX_ANSWER_BYTES];
        let (length, descriptors) = match socket::receive(self.socket.as_fd(), &mut buffer) {
            Ok(received) => received,
            Err(error) if error.raw_os_error() == Some(errno::ECONNRESET) => (0, Vec::new()),
            Err(source) => return Err(Error::Talk { operation, source }),
        };
        if length == 0 {
            return Err(Error::Failed { operation, reason: self.ended(), log: None });
        }
        let answer = Response::decode(&buffer[..length]);
        let answer = answer.map_err(|error| Error::Protocol { operation, problem: error.to_string() })?;
        Ok((answer, descriptors))
    }

    /// Answers a notification.
    pub(super) fn acknowledge(&self, success: bool) -> Result<(), Error> {
        let kind = RequestType::Notify.into();
        self.send(&Request { kind, notify_success: Some(success), ..Request::default() })
    }

    /// What an unsuccessful answer means, for want of a log.
    pub(super) fn failure(&self, answer: &Response, log: Option<PathBuf>) -> Error {
        let reason = answer.error_message.clone().filter(|text| !text.trim().is_empty());
        let number = || answer.error_number.map(errno::explain);
        let reason = reason.or_else(|| self.complaint()).or_else(number).unwrap_or_else(|| "it gave no reason".into());
        Error::Failed { operation: self.operation, reason: one_line(&reason), log }
    }

    /// Waits for the end of a criu that has done its work.
    pub(super) fn finish(self) -> Result<(), crate::Error> {
        let operation = self.operation;
        drop(self.socket);
        let child = self.child.release();
        match pidfd::wait(child.pidfd.as_fd()).during("wait for", "criu")? {
            Exit::Code(0) => Ok(()),
            exit => Err(Error::Failed { operation, reason: how(exit), log: None }.into()),
        }
    }

    /// Ends criu and every process that it has left to this one.
    pub(super) fn abandon(self) {
        let Self { child, known, .. } = self;
        drop(child);
        for pid in children().difference(&known) {
            // A child that has not been reaped keeps its number.
            let Ok(pidfd) = pidfd::open(*pid) else { continue };
            let _ = pidfd::send_signal(pidfd.as_fd(), SIGKILL);
            let _ = pidfd::wait(pidfd.as_fd());
        }
    }

    fn ended(&self) -> String {
        let child = self.child.child();
        // The socket is closed by the end of criu, which is a moment away.
        let exit = pidfd::poll_exit(child.pidfd.as_fd(), 1000).and_then(|_| pidfd::try_wait(child.pidfd.as_fd()));
        let end = exit.ok().flatten().map_or_else(|| "it closed the connection".into(), how);
        self.complaint().map(|text| one_line(&text)).unwrap_or(end)
    }

    fn complaint(&self) -> Option<String> {
        let mut buffer = [0u8; MAX_COMPLAINT_BYTES];
        let read = fs::rewind(self.complaint.as_fd()).and_then(|()| fs::read(self.complaint.as_fd(), &mut buffer));
        let text = String::from_utf8_lossy(&buffer[..read.unwrap_or(0)]).trim().to_string();
        Some(text).filter(|text| !text.is_empty())
    }
}

fn how(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit status {code}"),
        Exit::Signal(signal) => format!("killed by signal {signal}"),
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// criu looks for tools of its own, such as iptables-restore, by the caller's PATH.
fn environment() -> CStringArray {
    let variables = std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", &value.into_vec()].concat());
    CStringArray::new(variables.filter_map(|variable| CString::new(variable).ok()).collect())
}

/// The children of this process, those not reaped yet included.
fn children() -> HashSet<i32> {
    let own = std::process::id();
    let list = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_part_by_part() {
        let version = |major, minor, sublevel| Version { major, minor, sublevel };
        assert!(version(3, 17, 1) > Version::new(3, 9) && version(4, 0, 0) > version(3, 19, 9));
        assert_eq!(version(3, 17, 1).to_string(), "3.17.1");
        assert_eq!(Version::new(4, 0).to_string(), "4.0");
    }

    #[test]
    fn an_old_criu_is_refused_by_what_it_is_too_old_for() {
        let criu = Criu { program: "/usr/sbin/criu".into(), version: Version::new(3, 9) };
        let error = criu.need(Version::new(3, 11), "a network namespace by path").expect_err("too old");
        let text = error.to_string();
        assert!(
            text.starts_with("a network namespace by path needs criu 3.11 or newer, /usr/sbin/criu is 3.9"),
            "{text}"
        );
    }
}
