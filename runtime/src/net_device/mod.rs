//! `linux.netDevices` (runtime-spec, config-linux.md#network-devices): devices of the host that become the container's.
//!
//! A helper process does it, as only a process inside the container's network namespace can give addresses there. What
//! was moved before a failure is moved back.

mod netlink;

use crate::create::ChildGuard;
use crate::error::{Error, While};
use crate::handshake::{At, Channel, Failure, Message, Step};
use crate::plan::NetDevice;
use netlink::{Address, Link, Routes};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use wharf_specs::oci::LinuxNamespaceType as Kind;
use wharf_sys::clone::{CloneOptions, spawn};
use wharf_sys::{fs, namespace, pidfd, process};

/// Devices that were moved; they go back to the host unless they are kept.
pub(crate) struct MovedDevices<'a> {
    devices: &'a [NetDevice],
    /// Whether each was up on the host.
    up: Vec<bool>,
    container: OwnedFd,
}

impl<'a> MovedDevices<'a> {
    /// Moves all or none of the devices into the network namespace `container`.
    pub(crate) fn new(devices: &'a [NetDevice], container: OwnedFd) -> Result<Self, Error> {
        let mut host = Routes::open().during("read network devices", "")?;
        let state = |device: &NetDevice| {
            let found = host.find(&device.host_name).map(|link| link.up);
            found.during("find network device", device.host_name.to_string_lossy())
        };
        let up = devices.iter().map(state).collect::<Result<Vec<_>, _>>()?;
        let moved = Self { devices, up, container };
        // What was moved before a failure goes back with `moved`.
        in_container(moved.container.as_fd(), |mover| devices.iter().try_for_each(|device| mover.take(device)))?;
        Ok(moved)
    }

    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for MovedDevices<'_> {
    fn drop(&mut self) {
        let give_back = |mover: &mut Mover<'_>| {
            for (device, up) in self.devices.iter().zip(&self.up) {
                // As far as it goes: what stopped the creation is the error to report.
                let _ = mover.give_back(device, *up);
            }
            Ok(())
        };
        let _ = in_container(self.container.as_fd(), give_back);
    }
}

/// Runs `work` in a helper process that has entered the namespace.
fn in_container(
    container: BorrowedFd<'_>,
    work: impl FnOnce(&mut Mover<'_>) -> Result<(), Failure>,
) -> Result<(), Error> {
    let (ours, theirs) = Channel::pair(3).during("make handshake channel", "")?;
    let helper = spawn(CloneOptions::default(), || {
        let all = || -> Result<(), Failure> {
            process::close_on_exec_from(3).at(Step::Stdio, "to be closed")?;
            work(&mut Mover::new(container)?)
        };
        let answer = match all() {
            Ok(()) => Message::Proceed,
            Err(failure) => Message::Failed(failure),
        };
        i32::from(theirs.send(&answer, &[]).is_err())
    });
    let guard = ChildGuard::new(helper.during("clone a helper", "")?);
    drop(theirs);
    let answer = ours.receive().during("talk to the helper", "")?;
    let _ = pidfd::wait(guard.release().pidfd.as_fd());
    match answer {
        Some((Message::Proceed, _)) => Ok(()),
        Some((Message::Failed(failure), _)) => Err(failure.into()),
        _ => Err(Error::Unsupported("move network devices: the helper ended without a word".into())),
    }
}

struct Mover<'a> {
    host: Routes,
    host_namespace: OwnedFd,
    container: Routes,
    target: BorrowedFd<'a>,
}

impl<'a> Mover<'a> {
    /// Joins the target. A netlink socket stays in the namespace it was opened in.
    fn new(target: BorrowedFd<'a>) -> Result<Self, Failure> {
        let host = Routes::open().at(Step::NetDevice, "")?;
        let host_namespace = fs::open_at(None, c"/proc/self/ns/net", fs::O_RDONLY, 0, 0).at(Step::NetDevice, "")?;
        namespace::join(target, Kind::Network as i32).at(Step::JoinNamespace, "network of the container")?;
        Ok(Self { host, host_namespace, container: Routes::open().at(Step::NetDevice, "")?, target })
    }

    fn take(&mut self, device: &NetDevice) -> Result<(), Failure> {
        let shown = device.host_name.to_string_lossy().into_owned();
        let link = self.host.find(&device.host_name).at(Step::NetDevice, &shown)?;
        let addresses = self.host.addresses(link).at(Step::NetDevice, format!("{shown}: list its addresses"))?;
        self.host.set_up(link, false).at(Step::NetDevice, format!("{shown}: set it down"))?;
        if let Err(error) = self.host.move_to(link, &device.name, self.target) {
            let _ = self.host.set_up(link, link.up);
            let object = format!("{shown}: make it {} of the container", device.name.to_string_lossy());
            return Err(error).at(Step::NetDevice, object);
        }
        let inside = self.container.find(&device.name).at(Step::NetDevice, &shown)?;
        settle(&mut self.container, inside, &addresses, true).at(Step::NetDevice, format!("{shown}: set it up"))
    }

    fn give_back(&mut self, device: &NetDevice, up: bool) -> io::Result<()> {
        if self.host.find(&device.host_name).is_ok() {
            // It was not moved, and what has its name in the container is another.
            return Ok(());
        }
        let link = self.container.find(&device.name)?;
        let addresses = self.container.addresses(link)?;
        self.container.set_up(link, false)?;
        self.container.move_to(link, &device.host_name, self.host_namespace.as_fd())?;
        let link = self.host.find(&device.host_name)?;
        settle(&mut self.host, link, &addresses, up)
    }
}

/// The kernel forgets the addresses of a device that changes its namespace.
fn settle(routes: &mut Routes, link: Link, addresses: &[Address], up: bool) -> io::Result<()> {
    let portable = addresses.iter().filter(|address| address.is_portable());
    portable.into_iter().try_for_each(|address| routes.add_address(link, address))?;
    routes.set_up(link, up)
}
