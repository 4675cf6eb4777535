//! One client of the shim: frames in, frames out, never blocking.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use wharf_specs::shim::{FromShim, MAX_FRAME_BYTES, Request};
use wharf_sys::socket;

/// Length of the body, little endian, before each body.
const HEADER_BYTES: usize = 4;
/// What a client that does not read may keep waiting in memory before it is dropped.
const MAX_OUTBOX_BYTES: usize = 8 << 20;
/// Descriptors a client may have sent ahead of the requests that use them.
const MAX_WAITING_DESCRIPTORS: usize = 32;

pub(crate) struct Connection {
    socket: OwnedFd,
    inbox: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    outbox: VecDeque<Outgoing>,
    outbox_bytes: usize,
    pub(crate) subscribed: bool,
}

struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    /// Go with the first byte.
    descriptors: Vec<OwnedFd>,
}

impl Connection {
    /// `socket` must be non-blocking.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            inbox: Vec::new(),
            descriptors: VecDeque::new(),
            outbox: VecDeque::new(),
            outbox_bytes: 0,
            subscribed: false,
        }
    }

    /// Takes what has arrived and gives back the requests that are whole. An error, end of file included, means that
    /// the connection is over.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Vec<Request>> {
        let mut requests = Vec::new();
        loop {
            match socket::receive(self.socket.as_fd(), buffer) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((length, descriptors)) => {
                    self.inbox.extend_from_slice(&buffer[..length]);
                    self.descriptors.extend(descriptors);
                    if self.descriptors.len() > MAX_WAITING_DESCRIPTORS {
                        return Err(io::Error::other("too many descriptors"));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(requests),
                Err(error) => return Err(error),
            }
            while let Some(request) = self.next_request()? {
                requests.push(request);
            }
        }
    }

    fn next_request(&mut self) -> io::Result<Option<Request>> {
        let Some(header) = self.inbox.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*header) as usize;
        if length > MAX_FRAME_BYTES {
            return Err(io::Error::other("frame is too long"));
        }
        let Some(body) = self.inbox.get(HEADER_BYTES..HEADER_BYTES + length) else { return Ok(None) };
        let request = serde_json::from_slice(body)?;
        self.inbox.drain(..HEADER_BYTES + length);
        Ok(Some(request))
    }

    /// The next `count` descriptors the client sent; fewer if it sent fewer.
    pub(crate) fn take_descriptors(&mut self, count: usize) -> Vec<OwnedFd> {
        let count = count.min(self.descriptors.len());
        self.descriptors.drain(..count).collect()
    }

    /// Puts a message in line and sends what the socket takes.
    pub(crate) fn send(&mut self, message: &FromShim, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&body);
        self.outbox_bytes += bytes.len();
        if self.outbox_bytes > MAX_OUTBOX_BYTES {
            return Err(io::Error::other("client does not read its messages"));
        }
        self.outbox.push_back(Outgoing { bytes, sent: 0, descriptors });
        self.flush()
    }

    /// Sends what the socket takes of the messages in line.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some(message) = self.outbox.front_mut() {
            let descriptors: Vec<BorrowedFd<'_>> = message.descriptors.iter().map(AsFd::as_fd).collect();
            match socket::send(self.socket.as_fd(), &message.bytes[message.sent..], &descriptors) {
                Ok(length) => {
                    message.descriptors.clear();
                    message.sent += length;
                    if message.sent == message.bytes.len() {
                        self.outbox_bytes -= message.bytes.len();
                        self.outbox.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether something waits for the socket to take it.
    pub(crate) fn wants_to_write(&self) -> bool {
        !self.outbox.is_empty()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_specs::shim::{Event, Operation};
    use wharf_sys::fs::set_nonblocking;

    fn pair() -> (Connection, OwnedFd) {
        let (ours, theirs) = socket::pair(socket::Kind::Stream).unwrap();
        set_nonblocking(ours.as_fd(), true).unwrap();
        (Connection::new(ours), theirs)
    }

    fn frame(body: &str) -> Vec<u8> {
        [&(body.len() as u32).to_le_bytes()[..], body.as_bytes()].concat()
    }

    #[test]
    fn requests_arrive_whole_however_they_are_cut() {
        let (mut connection, client) = pair();
        let bytes =
            [frame(r#"{"id":1,"operation":{"op":"version"}}"#), frame(r#"{"id":2,"operation":{"op":"status"}}"#)]
                .concat();
        let mut buffer = [0; 7];
        let mut ids = Vec::new();
        for piece in bytes.chunks(5) {
            socket::send(client.as_fd(), piece, &[]).unwrap();
            ids.extend(connection.receive(&mut buffer).unwrap().into_iter().map(|r| r.id));
        }
        assert_eq!(ids, [1, 2]);
    }

    #[test]
    fn descriptors_come_with_their_request() {
        let (mut connection, client) = pair();
        let file = std::fs::File::open("/dev/null").unwrap();
        let body =
            frame(r#"{"id":1,"operation":{"op":"attach","container":"c","stdin":false,"stdout":true,"stderr":false}}"#);
        socket::send(client.as_fd(), &body, &[file.as_fd()]).unwrap();
        let requests = connection.receive(&mut [0; 4096]).unwrap();
        assert!(matches!(requests[0].operation, Operation::Attach { stdout: true, .. }));
        assert_eq!(connection.take_descriptors(3).len(), 1);
    }

    #[test]
    fn a_frame_beyond_the_limit_ends_the_connection() {
        let (mut connection, client) = pair();
        socket::send(client.as_fd(), &u32::MAX.to_le_bytes(), &[]).unwrap();
        assert!(connection.receive(&mut [0; 64]).is_err());
    }

    #[test]
    fn a_client_that_does_not_read_is_dropped() {
        let (mut connection, _client) = pair();
        let event = FromShim::Event(Event::Oom { container: "c".repeat(1 << 20), at: 0 });
        let failed = (0..64).any(|_| connection.send(&event, Vec::new()).is_err());
        assert!(failed, "the outbox grew without limit");
    }
}
