//! Frames on the wire (SPDY/3.1, section 2.2): from bytes and to bytes, in network order.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::SpdyError;

/// Longest control frame that is taken. Clients' header blocks have a few hundred bytes.
pub const CONTROL_BYTES_MAX: usize = 16 << 10;

const HEADER_BYTES: usize = 8;
const VERSION: u16 = 3;
const CONTROL: u16 = 0x8000;
const STREAM_MASK: u32 = 0x7fff_ffff;

const FLAG_FIN: u8 = 1;
const FLAG_UNIDIRECTIONAL: u8 = 2;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

const SETTINGS_INITIAL_WINDOW_SIZE: u32 = 7;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// `block` is compressed ([`super::headers`]), as in the other frames that have one.
    SynStream {
        stream: u32,
        fin: bool,
        unidirectional: bool,
        block: Bytes,
    },
    SynReply {
        stream: u32,
        fin: bool,
        block: Bytes,
    },
    RstStream {
        stream: u32,
        status: u32,
    },
    /// Of all settings only the window that new streams begin with concerns a server.
    Settings {
        initial_window: Option<u32>,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last_stream: u32,
        status: u32,
    },
    Headers {
        stream: u32,
        fin: bool,
        block: Bytes,
    },
    /// Stream 0 is the whole connection.
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    /// A long frame comes in parts, `fin` with the last.
    Data {
        stream: u32,
        fin: bool,
        data: Bytes,
    },
    /// A kind that receivers have to pass over.
    Unknown {
        kind: u16,
    },
}

/// Cuts what was read into frames. Holds at most one control frame and what the last read brought.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: BytesMut,
    /// The data frame whose header was read and whose bytes are still coming.
    data: Option<DataFrame>,
}

#[derive(Debug)]
struct DataFrame {
    stream: u32,
    fin: bool,
    left: usize,
}

impl FrameReader {
    /// Where to put the bytes that are read.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// `None` until more was read. After an error the connection is of no more use.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, SpdyError> {
        if let Some(frame) = self.next_data() {
            return Ok(Some(frame));
        }
        if self.data.is_some() || self.buffer.len() < HEADER_BYTES {
            return Ok(None);
        }
        let mut header = &self.buffer[..HEADER_BYTES];
        let first = header.get_u32();
        let flags_and_length = header.get_u32();
        let flags = (flags_and_length >> 24) as u8;
        let length = (flags_and_length & 0x00ff_ffff) as usize;
        let version = (first >> 16) as u16;
        if version & CONTROL == 0 {
            self.buffer.advance(HEADER_BYTES);
            self.data = Some(DataFrame { stream: first, fin: flags & FLAG_FIN != 0, left: length });
            return Ok(self.next_data());
        }
        if version != CONTROL | VERSION {
            return Err(SpdyError::Version(version & !CONTROL));
        }
        if length > CONTROL_BYTES_MAX {
            return Err(SpdyError::TooLong { frame: "control", length, max: CONTROL_BYTES_MAX });
        }
        if self.buffer.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        let body = self.buffer.split_to(length).freeze();
        control(first as u16, flags, body).map(Some)
    }

    fn next_data(&mut self) -> Option<Frame> {
        let DataFrame { stream, fin, left } = self.data.as_mut()?;
        if *left != 0 && self.buffer.is_empty() {
            return None;
        }
        let data = self.buffer.split_to((*left).min(self.buffer.len())).freeze();
        *left -= data.len();
        let frame = Frame::Data { stream: *stream, fin: *fin && *left == 0, data };
        if *left == 0 {
            self.data = None;
        }
        Some(frame)
    }
}

fn control(kind: u16, flags: u8, mut body: Bytes) -> Result<Frame, SpdyError> {
    let fin = flags & FLAG_FIN != 0;
    let length = |frame: &'static str, body: &Bytes, wanted: usize| match body.len() {
        length if length == wanted => Ok(()),
        _ => Err(SpdyError::Malformed { frame, problem: "its length is not that of its kind" }),
    };
    let at_least = |frame: &'static str, body: &Bytes, wanted: usize| match body.len() {
        length if length >= wanted => Ok(()),
        _ => Err(SpdyError::Malformed { frame, problem: "is too short" }),
    };
    Ok(match kind {
        SYN_STREAM => {
            at_least("SYN_STREAM", &body, 10)?;
            let stream = body.get_u32() & STREAM_MASK;
            // The stream it belongs to, its priority and its slot mean nothing here.
            body.advance(6);
            Frame::SynStream { stream, fin, unidirectional: flags & FLAG_UNIDIRECTIONAL != 0, block: body }
        }
        SYN_REPLY => {
            at_least("SYN_REPLY", &body, 4)?;
            Frame::SynReply { stream: body.get_u32() & STREAM_MASK, fin, block: body }
        }
        RST_STREAM => {
            length("RST_STREAM", &body, 8)?;
            Frame::RstStream { stream: body.get_u32() & STREAM_MASK, status: body.get_u32() }
        }
        SETTINGS => {
            at_least("SETTINGS", &body, 4)?;
            let entries = body.get_u32() as usize;
            length("SETTINGS", &body, entries.saturating_mul(8))?;
            let mut initial_window = None;
            while body.has_remaining() {
                let id = body.get_u32() & 0x00ff_ffff;
                let value = body.get_u32();
                if id == SETTINGS_INITIAL_WINDOW_SIZE {
                    initial_window = Some(value & STREAM_MASK);
                }
            }
            Frame::Settings { initial_window }
        }
        PING => {
            length("PING", &body, 4)?;
            Frame::Ping { id: body.get_u32() }
        }
        GOAWAY => {
            length("GOAWAY", &body, 8)?;
            Frame::GoAway { last_stream: body.get_u32() & STREAM_MASK, status: body.get_u32() }
        }
        HEADERS => {
            at_least("HEADERS", &body, 4)?;
            Frame::Headers { stream: body.get_u32() & STREAM_MASK, fin, block: body }
        }
        WINDOW_UPDATE => {
            length("WINDOW_UPDATE", &body, 8)?;
            Frame::WindowUpdate { stream: body.get_u32() & STREAM_MASK, delta: body.get_u32() & STREAM_MASK }
        }
        kind => Frame::Unknown { kind },
    })
}

impl Frame {
    /// Appends the frame. [`Frame::Unknown`] has no form and appends nothing.
    pub fn encode(&self, out: &mut BytesMut) {
        let flag = |fin: bool| if fin { FLAG_FIN } else { 0 };
        match self {
            Self::SynStream { stream, fin, unidirectional, block } => {
                let flags = flag(*fin) | if *unidirectional { FLAG_UNIDIRECTIONAL } else { 0 };
                control_header(out, SYN_STREAM, flags, 10 + block.len());
                out.put_u32(*stream);
                out.put_u32(0);
                out.put_u16(0);
                out.put_slice(block);
            }
            Self::SynReply { stream, fin, block } | Self::Headers { stream, fin, block } => {
                let kind = if matches!(self, Self::SynReply { .. }) { SYN_REPLY } else { HEADERS };
                control_header(out, kind, flag(*fin), 4 + block.len());
                out.put_u32(*stream);
                out.put_slice(block);
            }
            Self::RstStream { stream, status } => pair(out, RST_STREAM, *stream, *status),
            Self::GoAway { last_stream, status } => pair(out, GOAWAY, *last_stream, *status),
            Self::WindowUpdate { stream, delta } => pair(out, WINDOW_UPDATE, *stream, *delta),
            Self::Settings { initial_window } => {
                control_header(out, SETTINGS, 0, 4 + 8 * initial_window.iter().count());
                out.put_u32(u32::from(initial_window.is_some()));
                if let Some(window) = initial_window {
                    out.put_u32(SETTINGS_INITIAL_WINDOW_SIZE);
                    out.put_u32(*window);
                }
            }
            Self::Ping { id } => {
                control_header(out, PING, 0, 4);
                out.put_u32(*id);
            }
            Self::Data { stream, fin, data } => {
                out.put_u32(*stream & STREAM_MASK);
                out.put_u32(u32::from(flag(*fin)) << 24 | data.len() as u32);
                out.put_slice(data);
            }
            Self::Unknown { .. } => {}
        }
    }
}

fn control_header(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(CONTROL | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24 | length as u32);
}

fn pair(out: &mut BytesMut, kind: u16, first: u32, second: u32) {
    control_header(out, kind, 0, 8);
    out.put_u32(first);
    out.put_u32(second);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame> {
        let block = Bytes::from_static(b"block");
        vec![
            Frame::SynStream { stream: 1, fin: false, unidirectional: true, block: block.clone() },
            Frame::SynReply { stream: 1, fin: true, block: block.clone() },
            Frame::RstStream { stream: 3, status: 5 },
            Frame::Settings { initial_window: Some(1 << 20) },
            Frame::Settings { initial_window: None },
            Frame::Ping { id: 9 },
            Frame::GoAway { last_stream: 7, status: 0 },
            Frame::Headers { stream: 5, fin: false, block },
            Frame::WindowUpdate { stream: 0, delta: 1000 },
            Frame::Data { stream: 3, fin: false, data: Bytes::from_static(b"data") },
            Frame::Data { stream: 3, fin: true, data: Bytes::new() },
        ]
    }

    fn encoded(frames: &[Frame]) -> BytesMut {
        let mut bytes = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        bytes
    }

    #[test]
    fn frames_read_back_as_they_were_written() {
        let mut reader = FrameReader::default();
        reader.buffer().extend_from_slice(&encoded(&frames()));
        for frame in frames() {
            assert_eq!(reader.next_frame(), Ok(Some(frame)));
        }
        assert_eq!(reader.next_frame(), Ok(None));
    }

    #[test]
    fn bytes_may_come_one_by_one() {
        let mut reader = FrameReader::default();
        let mut read = Vec::new();
        for byte in encoded(&frames()) {
            reader.buffer().extend_from_slice(&[byte]);
            while let Some(frame) = reader.next_frame().unwrap() {
                read.push(frame);
            }
        }
        let data: Vec<u8> = read
            .iter()
            .filter_map(|frame| match frame {
                Frame::Data { data, .. } => Some(data.to_vec()),
                _ => None,
            })
            .flatten()
            .collect();
        assert_eq!(data, b"data");
        assert_eq!(read.iter().filter(|frame| matches!(frame, Frame::Data { fin: true, .. })).count(), 1);
        assert_eq!(read.iter().filter(|frame| !matches!(frame, Frame::Data { .. })).count(), 9);
    }

    #[test]
    fn wrong_frames_are_refused_and_unknown_ones_passed_over() {
        let read = |bytes: &[u8]| {
            let mut reader = FrameReader::default();
            reader.buffer().extend_from_slice(bytes);
            reader.next_frame()
        };
        assert_eq!(read(&[0x80, 2, 0, 1, 0, 0, 0, 0]), Err(SpdyError::Version(2)));
        assert!(matches!(read(&[0x80, 3, 0, 1, 0, 1, 0, 0]), Err(SpdyError::TooLong { length: 65536, .. })));
        assert!(matches!(read(&[0x80, 3, 0, 6, 0, 0, 0, 1, 0]), Err(SpdyError::Malformed { frame: "PING", .. })));
        assert!(matches!(read(&[0x80, 3, 0, 4, 0, 0, 0, 4, 255, 255, 255, 255]), Err(SpdyError::Malformed { .. })));
        assert_eq!(read(&[0x80, 3, 0, 10, 0, 0, 0, 1, 0]), Ok(Some(Frame::Unknown { kind: 10 })));
    }

    #[test]
    fn a_long_data_frame_needs_no_memory_of_its_length() {
        let mut reader = FrameReader::default();
        reader.buffer().extend_from_slice(&[0, 0, 0, 1, FLAG_FIN, 255, 255, 255]);
        assert_eq!(reader.next_frame(), Ok(None));
        let mut seen = 0;
        while seen < 0x00ff_ffff {
            let part = 32_768.min(0x00ff_ffff - seen);
            reader.buffer().extend_from_slice(&vec![0; part]);
            seen += part;
            let frame = reader.next_frame().unwrap();
            assert!(
                matches!(frame, Some(Frame::Data { fin, ref data, .. }) if data.len() == part && fin == (seen == 0x00ff_ffff))
            );
        }
    }
}
