//! A command on a terminal of its own, as a person's shell gives it one.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Child, Command};
use wharf_sys::terminal::{self, Size};

const EIO: i32 = 5;

/// Starts the command with a new terminal of that size as its controlling one and as its standard input, output and
/// error. The other side of the terminal is returned: what is written there is typed.
pub fn spawn(command: &Command, size: Size) -> (Child, File) {
    let master = OpenOptions::new().read(true).write(true).open("/dev/ptmx").expect("open /dev/ptmx");
    terminal::unlock(master.as_fd()).expect("unlock the terminal");
    let peer = terminal::open_peer(master.as_fd()).expect("open the terminal");
    terminal::set_size(master.as_fd(), size).expect("set the terminal's size");
    // Debian's setsid (util-linux) is in every system.
    let mut session = Command::new("setsid");
    session.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
    let other = || peer.try_clone().expect("duplicate");
    session.stdin(other()).stdout(other()).stderr(other());
    (session.spawn().expect("setsid"), master)
}

/// What is shown on the terminal until nobody has it open any more.
pub fn shown(mut terminal: &File) -> String {
    let mut bytes = Vec::new();
    let read = terminal.read_to_end(&mut bytes);
    // A terminal that everybody has closed ends so.
    assert!(read.as_ref().is_err_and(|error| error.raw_os_error() == Some(EIO)), "read: {read:?}");
    String::from_utf8_lossy(&bytes).into_owned()
}
