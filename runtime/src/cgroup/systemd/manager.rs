//! systemd's manager on D-Bus (org.freedesktop.systemd1(5)): the system's, or a user's.

use crate::dbus::{Connection, Error, Target, Value, escape};
use std::env;
use std::path::Path;

const NAME: &str = "org.freedesktop.systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";
const MANAGER: Target<'static> = Target { destination: NAME, path: "/org/freedesktop/systemd1", interface: INTERFACE };
const PROPERTIES: Target<'static> = Target { interface: "org.freedesktop.DBus.Properties", ..MANAGER };
/// systemd's own socket, which root may use; it is there without a bus, and without the way over it.
const PRIVATE: &str = "unix:path=/run/systemd/private";
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";

pub(super) struct Manager {
    connection: Connection,
}

impl Manager {
    pub(super) fn connect(user: bool) -> Result<Self, Error> {
        let connection = if user {
            connect_user()?
        } else {
            Connection::to_peer(PRIVATE).or_else(|_| {
                Connection::to_bus(&env::var("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_else(|_| SYSTEM_BUS.into()))
            })?
        };
        Ok(Self { connection })
    }

    /// The group that all of the manager's are below.
    pub(super) fn control_group(&mut self) -> Result<String, Error> {
        self.property("ControlGroup")
    }

    /// The leading number of systemd's version.
    pub(super) fn version(&mut self) -> Result<u32, Error> {
        let text = self.property("Version")?;
        parse_version(&text).ok_or(Error::Protocol("systemd's version is not a number"))
    }

    /// Starts a transient unit and waits until that is done.
    pub(super) fn start(&mut self, unit: &str, properties: &[Value]) -> Result<(), Error> {
        let arguments = [
            Value::from(unit),
            "replace".into(),
            Value::Array("(sv)".into(), properties.to_vec()),
            Value::Array("(sa(sv))".into(), Vec::new()),
        ];
        let started = match self.job("StartTransientUnit", &arguments) {
            // What is left of a unit that failed is in the way of the next of its name until it is reset.
            Err(error) if error.is("UnitExists") => {
                self.reset_failed(unit)?;
                self.job("StartTransientUnit", &arguments)
            }
            result => result,
        };
        let result = started?;
        if result != "done" {
            let _ = self.reset_failed(unit);
            return Err(Error::Answer { name: result, text: "the job to start the unit ended so".into() });
        }
        Ok(())
    }

    /// Stops a unit, waits until it is, and forgets that it failed.
    pub(super) fn stop(&mut self, unit: &str) -> Result<(), Error> {
        let stopped = self.job("StopUnit", &[unit.into(), "replace".into()]);
        self.reset_failed(unit)?;
        match stopped {
            Err(error) if !error.is("NoSuchUnit") => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) fn set(&mut self, unit: &str, properties: &[Value]) -> Result<(), Error> {
        const UNTIL_REBOOT: Value = Value::Bool(true);
        let properties = Value::Array("(sv)".into(), properties.to_vec());
        self.connection.call(MANAGER, "SetUnitProperties", &[unit.into(), UNTIL_REBOOT, properties]).map(drop)
    }

    pub(super) fn attach(&mut self, unit: &str, below: &str, pid: i32) -> Result<(), Error> {
        let pids = Value::Array("u".into(), vec![Value::U32(pid.cast_unsigned())]);
        self.connection.call(MANAGER, "AttachProcessesToUnit", &[unit.into(), below.into(), pids]).map(drop)
    }

    fn reset_failed(&mut self, unit: &str) -> Result<(), Error> {
        match self.connection.call(MANAGER, "ResetFailedUnit", &[unit.into()]) {
            Err(error) if !error.is("NoSuchUnit") => Err(error),
            _ => Ok(()),
        }
    }

    fn property(&mut self, name: &str) -> Result<String, Error> {
        let answer = self.connection.call(PROPERTIES, "Get", &[INTERFACE.into(), name.into()])?;
        if let Some(Value::Variant(value)) = answer.into_iter().next()
            && let Value::String(text) = *value
        {
            return Ok(text);
        }
        Err(Error::Protocol("a property of systemd is not the text it should be"))
    }

    /// Calls a method that enqueues a job, and waits for the job's end. Returns its result: `done`, or why not.
    fn job(&mut self, member: &str, arguments: &[Value]) -> Result<String, Error> {
        self.connection.subscribe(INTERFACE, "JobRemoved")?;
        let mut ended = Vec::new();
        let answer = self.connection.call_watching(MANAGER, member, arguments, &mut |signal, arguments| {
            ended.extend((signal == "JobRemoved").then(|| removed_job(arguments)).flatten());
        })?;
        let Some(Value::Path(job)) = answer.into_iter().next() else {
            return Err(Error::Protocol("systemd answered with no job"));
        };
        match ended.into_iter().find(|(path, _)| *path == job) {
            Some((_, result)) => Ok(result),
            None => self.connection.wait("JobRemoved", |arguments| {
                removed_job(arguments).filter(|(path, _)| *path == job).map(|(_, result)| result)
            }),
        }
    }
}

/// Path and result of the job in the signal's arguments: number, path, unit, result.
fn removed_job(arguments: &[Value]) -> Option<(String, String)> {
    match arguments {
        [_, Value::Path(path), _, Value::String(result)] => Some((path.clone(), result.clone())),
        _ => None,
    }
}

/// The user's bus by its address; without one, at its place in the runtime directory, or the manager's own socket.
fn connect_user() -> Result<Connection, Error> {
    if let Ok(address) = env::var("DBUS_SESSION_BUS_ADDRESS")
        && !address.is_empty()
    {
        return Connection::to_bus(&address);
    }
    let directory = match env::var("XDG_RUNTIME_DIR") {
        Ok(directory) if !directory.is_empty() => directory,
        _ => return Err(Error::Address("DBUS_SESSION_BUS_ADDRESS is not set, nor is XDG_RUNTIME_DIR".into())),
    };
    let address = |name: &str| format!("unix:path={}", escape(&format!("{directory}/{name}")));
    if Path::new(&directory).join("bus").exists() {
        return Connection::to_bus(&address("bus"));
    }
    Connection::to_peer(&address("systemd/private"))
}

/// `252.39-1~deb12u2`, `v245.4-1.fc32`.
fn parse_version(text: &str) -> Option<u32> {
    let digits = text.trim_start_matches('v');
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_begin_with_a_number() {
        assert_eq!(
            ["252.39-1~deb12u2", "v245.4", "257", "x"].map(parse_version),
            [Some(252), Some(245), Some(257), None]
        );
    }

    #[test]
    fn a_removed_job_has_path_and_result() {
        let path = "/org/freedesktop/systemd1/job/7";
        let arguments = [Value::U32(7), Value::Path(path.into()), "a.scope".into(), "done".into()];
        assert_eq!(removed_job(&arguments), Some((path.into(), "done".into())));
        assert_eq!(removed_job(&arguments[..2]), None);
    }
}
