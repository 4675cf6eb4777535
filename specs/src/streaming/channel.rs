//! Kubernetes' channel protocols: messages of a WebSocket that begin with the number of a channel.
//!
//! | `exec`, `attach` | `port-forward`, for the port with index `i` |
//! |---|---|
//! | 0 stdin, 1 stdout, 2 stderr, 3 error, 4 resize | `2i` data, `2i + 1` error |
//!
//! The binary forms have the number as a byte, the `base64` forms as a digit with base64 behind it. In v5 channel 255 says
//! that the channel in the next byte is closed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Deserialize;

pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
pub const ERROR: u8 = 3;
pub const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Highest channel of the forms with a digit.
const DIGIT_MAX: u8 = 9;

/// Subprotocols of `exec` and `attach`, best first.
pub const REMOTE_COMMAND: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelProtocol {
    pub base64: bool,
    /// The error channel has a `Status` in JSON, not a line for people; since v4.
    pub status: bool,
    /// Since v5.
    pub close: bool,
}

impl ChannelProtocol {
    /// `None` for a name that is none of [`REMOTE_COMMAND`]; a client that names none has the first version.
    pub fn from_name(name: &str) -> Option<Self> {
        let protocol = |base64, status, close| Some(Self { base64, status, close });
        match name {
            "v5.channel.k8s.io" => protocol(false, true, true),
            "v4.channel.k8s.io" => protocol(false, true, false),
            "v4.base64.channel.k8s.io" => protocol(true, true, false),
            "" | "channel.k8s.io" => protocol(false, false, false),
            "base64.channel.k8s.io" => protocol(true, false, false),
            _ => None,
        }
    }

    /// What a client's message says; `None` where it is no message of this protocol.
    pub fn read(self, message: Bytes) -> Option<ChannelMessage> {
        // Some clients begin with an empty message to see whether the connection is up.
        let Some(&first) = message.first() else { return Some(ChannelMessage::Nothing) };
        if self.base64 {
            let channel = first.checked_sub(b'0').filter(|channel| *channel <= DIGIT_MAX)?;
            let data = BASE64.decode(&message[1..]).ok()?;
            return Some(ChannelMessage::Data { channel, data: data.into() });
        }
        if first == CLOSE && self.close {
            return message.get(1).map(|&channel| ChannelMessage::Close { channel });
        }
        Some(ChannelMessage::Data { channel: first, data: message.slice(1..) })
    }

    /// A message of the server. In the base64 forms, text.
    pub fn write(self, channel: u8, data: &[u8]) -> Vec<u8> {
        if !self.base64 {
            return [&[channel], data].concat();
        }
        let mut message = String::from(char::from(b'0' + channel.min(DIGIT_MAX)));
        BASE64.encode_string(data, &mut message);
        message.into_bytes()
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum ChannelMessage {
    Data { channel: u8, data: Bytes },
    Close { channel: u8 },
    Nothing,
}

/// Of a terminal, in characters: what the resize channel and the resize stream carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// Longest size that is waited for.
const SIZE_BYTES_MAX: usize = 1 << 10;

/// Reads sizes from a stream, on which they come one after the other with or without line feeds between them.
#[derive(Debug, Default)]
pub struct SizeReader {
    pending: Vec<u8>,
}

impl SizeReader {
    /// The last size that is complete in `data` and what came before. What is no size is passed over.
    pub fn push(&mut self, data: &[u8]) -> Option<TerminalSize> {
        let mut latest = None;
        for &byte in data {
            self.pending.push(byte);
            if byte == b'}' {
                latest = serde_json::from_slice(&self.pending).ok().or(latest);
                self.pending.clear();
            } else if self.pending.len() >= SIZE_BYTES_MAX {
                self.pending.clear();
            }
        }
        latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocol(name: &str) -> ChannelProtocol {
        ChannelProtocol::from_name(name).unwrap()
    }

    #[test]
    fn every_offered_name_is_known() {
        assert!(REMOTE_COMMAND.iter().all(|name| ChannelProtocol::from_name(name).is_some()));
        assert_eq!(ChannelProtocol::from_name("v2.channel.k8s.io"), None);
        assert!(protocol(REMOTE_COMMAND[0]).close && !protocol(REMOTE_COMMAND[1]).close);
    }

    #[test]
    fn messages_have_their_channel_in_front() {
        let data = |channel, data: &'static [u8]| ChannelMessage::Data { channel, data: Bytes::from_static(data) };
        let read = |name: &str, text: &'static [u8]| protocol(name).read(Bytes::from_static(text));
        assert_eq!(read("v4.channel.k8s.io", b"\x00in"), Some(data(0, b"in")));
        assert_eq!(read("v4.base64.channel.k8s.io", b"0aW4="), Some(data(0, b"in")));
        assert_eq!(read("v4.base64.channel.k8s.io", b"0%"), None);
        assert_eq!(read("v4.base64.channel.k8s.io", b"xaW4="), None);
        assert_eq!(read("v5.channel.k8s.io", b"\xff\x00"), Some(ChannelMessage::Close { channel: 0 }));
        assert_eq!(read("v5.channel.k8s.io", b"\xff"), None);
        assert_eq!(read("v4.channel.k8s.io", b"\xff\x00"), Some(data(255, b"\x00")));
        assert_eq!(read("channel.k8s.io", b""), Some(ChannelMessage::Nothing));
    }

    #[test]
    fn what_is_written_reads_back() {
        for name in REMOTE_COMMAND {
            let message = protocol(name).write(STDOUT, b"out \xff");
            let expected = ChannelMessage::Data { channel: STDOUT, data: Bytes::from_static(b"out \xff") };
            assert_eq!(protocol(name).read(message.into()), Some(expected), "{name}");
        }
    }

    #[test]
    fn sizes_come_in_any_pieces() {
        let mut reader = SizeReader::default();
        assert_eq!(reader.push(b"{\"Width\":80,"), None);
        assert_eq!(reader.push(b"\"Height\":24}\n"), Some(TerminalSize { width: 80, height: 24 }));
        let size = Some(TerminalSize { width: 2, height: 3 });
        assert_eq!(reader.push(br#"{"Width":1,"Height":1}{"Width":2,"Height":3}"#), size);
        assert_eq!(reader.push(br#"{"Width":-1,"Height":1}"#), None);
        assert_eq!(reader.push(&vec![b'x'; 5000]), None);
        assert!(reader.pending.len() < SIZE_BYTES_MAX);
    }
}
