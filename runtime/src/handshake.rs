//! What the runtime and the process it cloned say to each other, over a `SOCK_SEQPACKET` pair.
//!
//! ```text
//! runtime                                   child
//!   (writes id maps, joins v1 cgroups)
//!   Proceed  [+ hook state] ───────────────▶  namespaces, mounts
//!            ◀──────────────── HooksDue       (only if there are such hooks)
//!   (createRuntime hooks)
//!   Proceed  ──────────────────────────────▶  createContainer hooks, pivot_root, identity
//!            ◀──────────── Terminal [+ fd]    (only with a terminal)
//!            ◀──────────────── Created
//!   Proceed  ──────────────────────────────▶  (only with a state directory: the state is saved, the start comes
//!                                              from elsewhere; until then the child ends with the runtime)
//!   Start    ──────────────────────────────▶  startContainer hooks, seccomp, exec
//!            ◀──────────── end of file        exec closed the child's end: the program runs
//! ```
//!
//! At any point the child may say `Failed` with a typed [`Failure`] and exit.

use crate::state::process_status;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use wharf_sys::{errno, event, socket};

/// Longest object name that travels in a message; longer ones are cut.
const MAX_OBJECT_BYTES: usize = 4096;

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What the child was doing when it failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Step { $($(#[$doc])* $name,)* }

        impl Step {
            const ALL: &[Step] = &[$(Step::$name,)*];

            /// The operation, as messages name it.
            pub fn operation(self) -> &'static str {
                match self { $(Step::$name => $text,)* }
            }
        }
    };
}

steps! {
    Handshake = "handshake with the runtime",
    Clone = "clone",
    JoinNamespace = "join namespace",
    Unshare = "unshare namespace",
    TimeOffsets = "set time offsets",
    Session = "start session",
    Keyring = "join session keyring",
    Loopback = "set loopback device up",
    NetDevice = "move network device",
    Propagation = "set propagation of",
    Rootfs = "mount rootfs",
    MountSource = "error mounting: open source",
    MountTarget = "error mounting: prepare target",
    Mount = "error mounting",
    MountAttributes = "error mounting: set attributes of",
    Device = "create device",
    Link = "create link",
    Terminal = "set up terminal",
    Hook = "error running",
    PivotRoot = "pivot_root to",
    ChangeRoot = "change root to",
    Hostname = "set hostname",
    Domainname = "set domainname",
    Sysctl = "write sysctl",
    ReadonlyPath = "make read-only",
    MaskedPath = "mask",
    Label = "set security label",
    Rlimit = "set rlimit",
    OomScore = "set oom_score_adj",
    IoPriority = "set io priority",
    Scheduler = "set scheduler",
    Affinity = "set cpu affinity",
    Personality = "set personality",
    MemoryPolicy = "set memory policy",
    WorkingDirectory = "change directory to",
    Groups = "set groups",
    User = "set user",
    Capabilities = "set capabilities",
    NoNewPrivileges = "set no_new_privs",
    Seccomp = "load seccomp filter",
    Stdio = "lay out descriptors",
    FindProgram = "find program",
    Exec = "exec",
    Gate = "wait for start",
}

impl Step {
    /// JSON path of what the step carries out, where it is one field.
    pub fn field(self) -> Option<&'static str> {
        Some(match self {
            Step::TimeOffsets => "linux.timeOffsets",
            Step::Device => "linux.devices",
            Step::Hostname => "hostname",
            Step::Domainname => "domainname",
            Step::Sysctl => "linux.sysctl",
            Step::MaskedPath => "linux.maskedPaths",
            Step::Rlimit => "process.rlimits",
            Step::OomScore => "process.oomScoreAdj",
            Step::IoPriority => "process.ioPriority",
            Step::Scheduler => "process.scheduler",
            Step::Affinity => "process.execCPUAffinity",
            Step::Personality => "linux.personality",
            Step::MemoryPolicy => "linux.memoryPolicy",
            Step::WorkingDirectory => "process.cwd",
            Step::Groups => "process.user.additionalGids",
            Step::User => "process.user",
            Step::Capabilities => "process.capabilities",
            Step::Seccomp => "linux.seccomp",
            Step::FindProgram => "process.args[0]",
            _ => return None,
        })
    }
}

/// A step that failed in the child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub step: Step,
    /// The kernel's error number; zero if there is none.
    pub errno: i32,
    /// What the step was applied to; may be empty.
    pub object: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.step.operation())?;
        if !self.object.is_empty() {
            write!(f, " {}", self.object)?;
        }
        if let Some(field) = self.step.field() {
            write!(f, " ({field})")?;
        }
        if self.errno != 0 {
            // Programs that call a runtime look for the plain sentence here.
            let plain = matches!(self.step, Step::Exec | Step::FindProgram);
            let text = if plain { errno::description(self.errno) } else { errno::explain(self.errno) };
            write!(f, ": {text}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Attaches step and object to a kernel error.
pub(crate) trait At<T> {
    fn at(self, step: Step, object: impl fmt::Display) -> Result<T, Failure>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, step: Step, object: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure { step, errno: errno::number(&error), object: object.to_string() })
    }
}

/// One message; which of them go which way is drawn at the top of this file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    Proceed,
    /// The intermediate process has a new user namespace, whose maps the runtime must write.
    MapIds,
    /// The intermediate process has cloned the init with this pid; its pidfd comes along.
    Init(i32),
    HooksDue,
    /// The source of the mount with this index is to be opened by the runtime.
    SourceWanted(usize),
    Terminal,
    SeccompListener,
    /// Something was not done that the standard allows to be left out.
    Warning(String),
    /// A step was reached; only said to a runtime that has asked for it.
    Trace(String),
    Created,
    Start,
    /// Asked for by a runtime at the gate of an init that waits, and the answer, with a descriptor of each.
    Namespaces,
    Failed(Failure),
}

impl Message {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (tag, step, number, object) = match self {
            Message::Proceed => (0, 0, 0, ""),
            Message::MapIds => (1, 0, 0, ""),
            Message::Init(pid) => (2, 0, *pid, ""),
            Message::HooksDue => (3, 0, 0, ""),
            Message::Terminal => (4, 0, 0, ""),
            Message::SeccompListener => (5, 0, 0, ""),
            Message::Warning(text) => (6, 0, 0, text.as_str()),
            Message::Created => (7, 0, 0, ""),
            Message::Start => (8, 0, 0, ""),
            Message::Trace(text) => (10, 0, 0, text.as_str()),
            Message::Namespaces => (12, 0, 0, ""),
            Message::SourceWanted(index) => (11, 0, *index as i32, ""),
            Message::Failed(failure) => (9, failure.step as u8, failure.errno, failure.object.as_str()),
        };
        let object = &object.as_bytes()[..object.len().min(MAX_OBJECT_BYTES)];
        let mut bytes = Vec::with_capacity(6 + object.len());
        bytes.extend([tag, step]);
        bytes.extend(number.to_le_bytes());
        bytes.extend(object);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[tag, step, a, b, c, d], object) = bytes.split_first_chunk::<6>()?;
        let number = i32::from_le_bytes([a, b, c, d]);
        let object = || String::from_utf8_lossy(object).into_owned();
        Some(match tag {
            0 => Message::Proceed,
            1 => Message::MapIds,
            2 => Message::Init(number),
            3 => Message::HooksDue,
            4 => Message::Terminal,
            5 => Message::SeccompListener,
            6 => Message::Warning(object()),
            7 => Message::Created,
            8 => Message::Start,
            9 => {
                let step = *Step::ALL.get(usize::from(step))?;
                Message::Failed(Failure { step, errno: number, object: object() })
            }
            10 => Message::Trace(object()),
            11 => Message::SourceWanted(usize::try_from(number).ok()?),
            12 => Message::Namespaces,
            _ => return None,
        })
    }
}

/// One end of the conversation.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Both ends, numbered from `minimum` on so that they do not lie where descriptors are handed over.
    pub(crate) fn pair(minimum: i32) -> io::Result<(Self, Self)> {
        let (one, other) = socket::pair(socket::Kind::SeqPacket)?;
        let raise = |fd: OwnedFd| wharf_sys::process::duplicate_above(fd.as_fd(), minimum).map(Self);
        Ok((raise(one)?, raise(other)?))
    }

    pub(crate) fn from_socket(socket: OwnedFd) -> Self {
        Self(socket)
    }

    pub(crate) fn send(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        socket::send(self.0.as_fd(), &message.encode(), descriptors).map(drop)
    }

    /// The next message; `None` once the other side has closed.
    pub(crate) fn receive(&self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        match self.receive_heard() {
            Err(error) if error.raw_os_error() == Some(errno::ECONNRESET) => Ok(None),
            result => result,
        }
    }

    /// As [`Channel::receive`], but it is an error (`ECONNRESET`) if the other side has not read what was sent to it, or
    /// was never there.
    fn receive_heard(&self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        let mut buffer = [0u8; 6 + MAX_OBJECT_BYTES];
        let (length, descriptors) = match socket::receive(self.0.as_fd(), &mut buffer)? {
            (0, _) => return Ok(None),
            received => received,
        };
        match Message::decode(&buffer[..length]) {
            Some(message) => Ok(Some((message, descriptors))),
            None => Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
    }
}

impl Channel {
    /// As [`Channel::receive`], from a process that others in its pid namespace can stop: it would be waited for until
    /// they let it go on, and nothing else tells of a stop.
    pub(crate) fn receive_from(&self, pid: i32) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        self.wait_for(pid)?;
        self.receive()
    }

    /// As [`Channel::receive_heard`], from such a process.
    pub(crate) fn receive_heard_from(&self, pid: i32) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        self.wait_for(pid)?;
        self.receive_heard()
    }

    fn wait_for(&self, pid: i32) -> io::Result<()> {
        const LOOK_EVERY_MILLISECONDS: i32 = 250;
        /// Not at the first look: a terminal stops and continues whole process groups.
        const LOOKS: u32 = 4;
        let mut stopped = 0;
        while !event::wait_readable(self.as_fd(), LOOK_EVERY_MILLISECONDS)? {
            match process_status(pid) {
                Some(('T', _)) => stopped += 1,
                _ => stopped = 0,
            }
            if stopped == LOOKS {
                return Err(io::Error::other(format!("process {pid} was stopped by a signal")));
            }
        }
        Ok(())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_the_wire() {
        let failure = Failure { step: Step::Gate, errno: 13, object: "/x".into() };
        let all = [
            Message::Proceed,
            Message::MapIds,
            Message::Init(4711),
            Message::HooksDue,
            Message::SourceWanted(7),
            Message::Terminal,
            Message::SeccompListener,
            Message::Warning("w".into()),
            Message::Trace("t".into()),
            Message::Created,
            Message::Start,
            Message::Namespaces,
            Message::Failed(failure),
        ];
        for message in all {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
        assert_eq!(Message::decode(b"short"), None);
        assert_eq!(Message::decode(&[99; 6]), None);
    }

    #[test]
    fn failure_reads_as_operation_object_cause() {
        let failure = Failure { step: Step::Mount, errno: errno::EPERM, object: "proc on /proc".into() };
        assert_eq!(failure.to_string(), "error mounting proc on /proc: EPERM (operation not permitted)");
    }
}
