//! A short-lived process that opens what the runtime cannot open where it is.

use crate::create::ChildGuard;
use crate::error::{Error, While};
use crate::handshake::{At, Channel, Failure, Message, Step};
use std::os::fd::{AsFd, OwnedFd};
use wharf_sys::clone::{CloneOptions, spawn};
use wharf_sys::{pidfd, process};

/// Runs `work` in a child with these new namespaces (`CLONE_NEW*`) and gives back the descriptor it comes to.
pub(crate) fn descriptor(
    what: &str,
    namespaces: i32,
    work: impl FnOnce() -> Result<OwnedFd, Failure>,
) -> Result<OwnedFd, Error> {
    let (ours, theirs) = Channel::pair(3).during("make handshake channel", "")?;
    let options = CloneOptions { namespaces, ..CloneOptions::default() };
    let helper = spawn(options, || {
        let whole = || -> Result<(), Failure> {
            process::close_on_exec_from(3).at(Step::Stdio, "to be closed")?;
            theirs.send(&Message::Proceed, &[work()?.as_fd()]).at(Step::Handshake, "")
        };
        match whole() {
            Ok(()) => 0,
            Err(failure) => {
                let _ = theirs.send(&Message::Failed(failure), &[]);
                1
            }
        }
    });
    let guard = ChildGuard::new(helper.during("clone a helper", "")?);
    drop(theirs);
    let answer = ours.receive().during("talk to the helper", "")?;
    let _ = pidfd::wait(guard.release().pidfd.as_fd());
    let ended = || Error::Unsupported(format!("{what}: the helper ended without a word"));
    match answer {
        Some((Message::Proceed, descriptors)) => descriptors.into_iter().next().ok_or_else(ended),
        Some((Message::Failed(failure), _)) => Err(failure.into()),
        _ => Err(ended()),
    }
}
