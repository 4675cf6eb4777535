//! The terminal of a container: a pseudo terminal of the container's own devpts.

use crate::handshake::{At, Failure, Step};
use crate::rootfs::target;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use wharf_sys::terminal::{self, Size};
use wharf_sys::{errno, fs, mount, process};

/// Both sides of a new pseudo terminal.
pub(crate) struct Pty {
    pub(crate) master: OwnedFd,
    pub(crate) peer: OwnedFd,
}

/// Opens a terminal of the devpts mounted in the root. What is opened must lie on a devpts and be the
/// multiplexer: a container can put anything at that path.
pub(crate) fn open(root: BorrowedFd<'_>, size: Option<Size>, plain_line_feeds: bool) -> Result<Pty, Failure> {
    let path = c"/dev/pts/ptmx";
    let make = || -> io::Result<Pty> {
        let flags = fs::O_RDWR | fs::O_NOCTTY | fs::O_NOFOLLOW;
        let master = fs::open_in_root(root, path, flags, 0)?;
        let status = fs::status(master.as_fd())?;
        if fs::filesystem_magic(master.as_fd())? != fs::DEVPTS_MAGIC || status.rdev != (5, 2) {
            return Err(errno::error(errno::ENODEV));
        }
        terminal::unlock(master.as_fd())?;
        let peer = terminal::open_peer(master.as_fd())?;
        if let Some(size) = size {
            terminal::set_size(master.as_fd(), size)?;
        }
        if plain_line_feeds {
            terminal::clear_output_translation(master.as_fd())?;
        }
        Ok(Pty { master, peer })
    };
    make().at(Step::Terminal, "on /dev/pts/ptmx")
}

/// Shows the terminal as `/dev/console` too (runtime-spec, config-linux.md#default-devices).
pub(crate) fn bind_console(root: BorrowedFd<'_>, peer: BorrowedFd<'_>) -> Result<(), Failure> {
    let bind = || -> io::Result<()> {
        let (dev, name) = target::parent(root, c"/dev/console")?;
        let place = target::file(dev.as_fd(), &name, 0o620)?;
        let tree = mount::clone_tree(Some(peer), c"", false)?;
        mount::move_mount(tree.as_fd(), place.as_fd())
    };
    bind().at(Step::Terminal, "on /dev/console")
}

/// Makes the terminal the controlling one and the standard input, output and error.
pub(crate) fn take(peer: BorrowedFd<'_>) -> Result<(), Failure> {
    terminal::set_controlling(peer).at(Step::Terminal, "as controlling terminal")?;
    (0..3).try_for_each(|number| process::place(peer, number)).at(Step::Terminal, "as standard input and output")
}
