//! A blocking D-Bus client, as small as talking to systemd allows: method calls with their replies, and signals while
//! one of them is awaited (D-Bus Specification 0.42).
//!
//! It starts no thread and answers nobody. What comes from the other side is bounded in size and time.

mod message;
mod text;
mod value;

pub use text::parse as parse_value;
pub use value::Value;

use message::{Call, Kind, Message};
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Nothing that systemd answers in takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// More lines than a server needs to say that it trusts us.
const MOST_GREETING_BYTES: usize = 1024;
const BUS: &str = "org.freedesktop.DBus";

/// What can go wrong on a bus.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("connect to {address}: {source}")]
    Connect { address: String, source: io::Error },
    #[error("{address} does not accept this user: it answered {answer:?}")]
    Refused { address: String, answer: String },
    #[error("the address {0:?} names no unix socket; allowed: unix:path=…, unix:abstract=…")]
    Address(String),
    #[error("talk D-Bus: {0}")]
    Transport(#[from] io::Error),
    #[error("talk D-Bus: {0}")]
    Protocol(&'static str),
    /// The other side's answer to a call is an error of this name.
    #[error("{name}: {text}")]
    Answer { name: String, text: String },
}

impl Error {
    /// Whether the other side answered with this error; the prefix of systemd's errors is left out.
    pub fn is(&self, short: &str) -> bool {
        matches!(self, Self::Answer { name, .. } if name.rsplit('.').next() == Some(short))
    }
}

/// A call's target: object and interface of the peer.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
}

/// A connection, to a bus or straight to one peer.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    serial: u32,
    /// There is a bus in between, which delivers only the signals that were asked for.
    bus: bool,
}

impl Connection {
    /// Connects to a bus by its address, such as `unix:path=/run/dbus/system_bus_socket`. Of several addresses the
    /// first that can be reached is taken.
    pub fn to_bus(address: &str) -> Result<Self, Error> {
        let mut connection = Self::open(address, true)?;
        let bus = Target { destination: BUS, path: "/org/freedesktop/DBus", interface: BUS };
        connection.call(bus, "Hello", &[])?;
        Ok(connection)
    }

    /// Connects to a peer that speaks D-Bus without a bus.
    pub fn to_peer(address: &str) -> Result<Self, Error> {
        Self::open(address, false)
    }

    fn open(address: &str, bus: bool) -> Result<Self, Error> {
        let mut failure = Error::Address(address.into());
        for place in address.split(';') {
            let Some(socket) = socket_address(place) else { continue };
            match socket.and_then(|socket| UnixStream::connect_addr(&socket)) {
                Ok(mut stream) => {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    authenticate(&mut stream, place)?;
                    return Ok(Self { stream, serial: 0, bus });
                }
                Err(source) => failure = Error::Connect { address: place.into(), source },
            }
        }
        Err(failure)
    }

    /// Asks for the signals of an interface, which come only on request where there is a bus.
    pub fn subscribe(&mut self, interface: &str, member: &str) -> Result<(), Error> {
        if self.bus {
            let rule = format!("type='signal',interface='{interface}',member='{member}'");
            let bus = Target { destination: BUS, path: "/org/freedesktop/DBus", interface: BUS };
            self.call(bus, "AddMatch", &[Value::from(rule)])?;
        }
        Ok(())
    }

    /// Calls a method and waits for its reply.
    pub fn call(&mut self, target: Target<'_>, member: &str, arguments: &[Value]) -> Result<Vec<Value>, Error> {
        self.call_watching(target, member, arguments, &mut |_, _| {})
    }

    /// As [`Connection::call`]; hands over the signals that come before the reply, by member and arguments.
    pub fn call_watching(
        &mut self,
        target: Target<'_>,
        member: &str,
        arguments: &[Value],
        signal: &mut dyn FnMut(&str, &[Value]),
    ) -> Result<Vec<Value>, Error> {
        self.serial += 1;
        let serial = self.serial;
        self.stream.write_all(&Call { target, member, arguments, serial }.encode())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.receive(deadline)?;
            match message.kind {
                Kind::Reply if message.reply_to == serial => return message.arguments(),
                Kind::Error if message.reply_to == serial => {
                    let text = match message.arguments()?.into_iter().next() {
                        Some(Value::String(text)) => text,
                        _ => "no reason is given".into(),
                    };
                    return Err(Error::Answer { name: message.error_name, text });
                }
                Kind::Signal => signal(&message.member, &message.arguments().unwrap_or_default()),
                _ => {}
            }
        }
    }

    /// Waits for a signal, by its member, until `wanted` gives something for its arguments.
    pub fn wait<T>(&mut self, member: &str, mut wanted: impl FnMut(&[Value]) -> Option<T>) -> Result<T, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.receive(deadline)?;
            if message.kind == Kind::Signal
                && message.member == member
                && let Some(found) = wanted(&message.arguments().unwrap_or_default())
            {
                return Ok(found);
            }
        }
    }

    fn receive(&mut self, deadline: Instant) -> Result<Message, Error> {
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        self.stream.set_read_timeout(Some(rest))?;
        Message::read(&mut self.stream).map_err(|error| match error {
            // A timeout of the socket.
            Error::Transport(source) if source.kind() == io::ErrorKind::WouldBlock => {
                io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {} s", PATIENCE.as_secs())).into()
            }
            other => other,
        })
    }
}

/// The kernel tells the other side who we are (SASL EXTERNAL). No id is sent along: in a user namespace the one we
/// know of ourselves is not the one the other side sees.
///
/// All is sent at once: a message that reaches systemd in one piece with `BEGIN` would lie there unread.
fn authenticate(stream: &mut UnixStream, address: &str) -> Result<(), Error> {
    stream.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
    let mut answer = read_line(stream)?;
    if answer == "DATA" {
        answer = read_line(stream)?;
    }
    if answer.starts_with("OK ") { Ok(()) } else { Err(Error::Refused { address: address.into(), answer }) }
}

fn read_line(stream: &mut UnixStream) -> Result<String, Error> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        if line.len() == MOST_GREETING_BYTES {
            return Err(Error::Protocol("the greeting has no end"));
        }
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_string())
}

/// The socket of one `transport:key=value,…`; none for another transport.
fn socket_address(place: &str) -> Option<io::Result<SocketAddr>> {
    let keys = place.strip_prefix("unix:")?;
    keys.split(',').find_map(|pair| match pair.split_once('=')? {
        ("path", path) => Some(unescape(path).and_then(|path| SocketAddr::from_pathname(path_of(path)))),
        ("abstract", name) => Some(unescape(name).and_then(SocketAddr::from_abstract_name)),
        _ => None,
    })
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(bytes).into()
}

/// `%2f` as `/`.
fn unescape(text: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a bad % in the address"))?);
        rest = &rest[2..];
    }
    Ok(bytes)
}

/// A path as part of an address.
pub fn escape(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_/.\\*".contains(&byte);
    path.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn addresses_are_unescaped_and_other_transports_passed_over() {
        let name = |place| socket_address(place).and_then(Result::ok).and_then(|it| Some(it.as_pathname()?.to_owned()));
        assert_eq!(name("unix:guid=1,path=/run/a%20b"), Some("/run/a b".into()));
        assert_eq!(name("tcp:host=x"), None);
        assert!(socket_address("unix:path=%zz").is_some_and(|it| it.is_err()));
        assert_eq!(escape("/run/a b"), "/run/a%20b");
    }

    #[test]
    fn a_server_that_refuses_us_is_named() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).expect("bind");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut greeting = [0; 29];
            stream.read_exact(&mut greeting).expect("greeting");
            stream.write_all(b"REJECTED EXTERNAL\r\n").expect("answer");
            greeting
        });
        let error = Connection::to_peer(&format!("unix:path={}", path.display())).expect_err("must fail");
        assert!(error.to_string().contains("REJECTED EXTERNAL"), "{error}");
        assert_eq!(&server.join().expect("server"), b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n");
    }

    #[test]
    fn nobody_at_the_socket_is_an_error_with_its_address() {
        let error = Connection::to_bus("unix:path=/nonexistent/bus").expect_err("must fail");
        assert!(error.to_string().starts_with("connect to unix:path=/nonexistent/bus: No such file"), "{error}");
    }
}
