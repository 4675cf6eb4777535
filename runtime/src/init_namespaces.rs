//! The namespaces of a container's init, as `exec` joins them.
//!
//! They are joined through the init's pidfd, in one call. An ordinary user may do that to a program of theirs, but not to
//! an init that waits for its start: it is not dumpable, so that nobody in the container gets at it, and that keeps
//! out its owner too. Such an init holds descriptors of its namespaces and gives them to whoever asks at its gate, which
//! is in the owner's state directory.

use crate::container::Container;
use crate::error::{Error, While};
use crate::handshake::{At, Failure, Message, Step};
use crate::state::Status;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use wharf_specs::oci::LinuxNamespaceType as Kind;
use wharf_sys::{errno, fs, namespace};

/// The namespaces a process can differ in, by their names in `/proc/PID/ns`. The user namespace is joined first, as it
/// gives the right to join the others; the mount namespace last, as paths mean something else from then on.
const KINDS: [(&str, Kind); 8] = [
    ("user", Kind::User),
    ("ipc", Kind::Ipc),
    ("uts", Kind::Uts),
    ("net", Kind::Network),
    ("pid", Kind::Pid),
    ("cgroup", Kind::Cgroup),
    ("time", Kind::Time),
    ("mnt", Kind::Mount),
];

/// Those in which the init is and the caller is not.
#[derive(Debug)]
pub(crate) enum Namespaces {
    /// To be joined through the init's pidfd.
    OfProcess(i32),
    /// Given by the init, in the order in which they are joined.
    Given(Vec<(Kind, OwnedFd)>),
}

impl Namespaces {
    /// Those of the container's init.
    pub(crate) fn of(container: &Container) -> Result<Self, Error> {
        match differing(container.pid()) {
            Ok(kinds) => Ok(Self::OfProcess(kinds)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && container.status() == Status::Created => {
                ask(container).map(Self::Given)
            }
            Err(error) => Err(error).during("read the namespaces of", container.pid()),
        }
    }

    pub(crate) fn contain(&self, kind: Kind) -> bool {
        match self {
            Self::OfProcess(kinds) => kinds & kind as i32 != 0,
            Self::Given(given) => given.iter().any(|(given, _)| *given == kind),
        }
    }

    /// Moves the caller into all of them; `init` is the pidfd.
    pub(crate) fn join(&self, init: &OwnedFd) -> io::Result<()> {
        match self {
            Self::OfProcess(0) => Ok(()),
            Self::OfProcess(kinds) => namespace::join(init.as_fd(), *kinds),
            Self::Given(given) => given.iter().try_for_each(|(kind, fd)| namespace::join(fd.as_fd(), *kind as i32)),
        }
    }
}

/// Descriptors of the caller's own namespaces, for [`Namespaces::of`] of another process.
pub(crate) fn open_own() -> Result<Vec<OwnedFd>, Failure> {
    let mut own = Vec::new();
    for (name, _) in KINDS {
        let path = std::ffi::CString::new(format!("/proc/self/ns/{name}")).unwrap_or_default();
        match fs::open_at(None, &path, fs::O_RDONLY, 0, 0) {
            Ok(namespace) => own.push(namespace),
            // A kernel without this kind has it for nobody.
            Err(error) if error.raw_os_error() == Some(errno::ENOENT) => {}
            Err(error) => return Err(error).at(Step::Handshake, "over own namespaces"),
        }
    }
    Ok(own)
}

fn ask(container: &Container) -> Result<Vec<(Kind, OwnedFd)>, Error> {
    let (channel, _) = container.connect_gate("exec in")?;
    let work = || -> io::Result<Vec<OwnedFd>> {
        channel.send(&Message::Namespaces, &[])?;
        match channel.receive_from(container.pid())? {
            Some((Message::Namespaces, namespaces)) => Ok(namespaces),
            _ => Err(io::ErrorKind::PermissionDenied.into()),
        }
    };
    let mut given = Vec::new();
    for namespace in work().during("ask for the namespaces of", container.pid())? {
        let number = namespace::kind_of(namespace.as_fd()).during("read the namespaces of", container.pid())?;
        let Some((name, kind)) = KINDS.iter().find(|(_, kind)| *kind as i32 == number) else { continue };
        let (own, theirs) = (own(name), fs::status(namespace.as_fd()));
        if own.during("read own namespace", name)? != theirs.map(id).during("read namespace", name)? {
            given.push((*kind, namespace));
        }
    }
    Ok(given)
}

/// `CLONE_NEW*` of the namespaces in which `pid` is not where the caller is.
fn differing(pid: i32) -> io::Result<i32> {
    let mut kinds = 0;
    for (name, kind) in KINDS {
        let theirs = match of_process(&pid.to_string(), name) {
            Ok(theirs) => theirs,
            // A kernel without this kind has it for nobody.
            Err(error) if error.kind() == io::ErrorKind::NotFound && own(name).is_err() => continue,
            Err(error) => return Err(error),
        };
        if own(name)? != theirs {
            kinds |= kind as i32;
        }
    }
    Ok(kinds)
}

fn own(name: &str) -> io::Result<(u64, u64)> {
    of_process("self", name)
}

fn of_process(owner: &str, name: &str) -> io::Result<(u64, u64)> {
    let path = std::ffi::CString::new(format!("/proc/{owner}/ns/{name}"))?;
    fs::status_of(None, &path, true).map(id)
}

fn id(status: fs::Status) -> (u64, u64) {
    (status.device, status.inode)
}
