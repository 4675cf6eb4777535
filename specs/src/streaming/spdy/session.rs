//! The streams of one connection, as the server sees them (SPDY/3.1, sections 2.3 to 2.8): a client opens them, either
//! side ends its half, either side resets.
//!
//! ```text
//! SYN_STREAM ─► open ─ FIN of one side ─► half closed ─ FIN of the other ─► gone
//!                 └──────────── RST_STREAM of either side ────────────────────┘
//! ```
//!
//! Windows: what a client may send is bounded by the windows that it is told of. What it may be sent is bounded only once
//! it spoke of windows itself: Kubernetes' own clients never do, and would get 64 KiB of output and no more.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::frame::Frame;
use super::headers::{Headers, Inflater};
use super::{SpdyError, reset};

/// Window that every stream and the connection begin with (section 2.6.8).
pub const INITIAL_WINDOW: u32 = 64 << 10;

/// Streams that may be open at once.
pub const STREAMS_MAX: usize = 512;

/// Consumed bytes after which the client is told.
const UPDATE_BYTES: u32 = INITIAL_WINDOW / 2;

const WINDOW_MAX: i64 = i32::MAX as i64;

/// What a frame means.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Opened {
        stream: u32,
        headers: Headers,
    },
    Data {
        stream: u32,
        data: Bytes,
    },
    /// The client will send no more on it.
    Finished {
        stream: u32,
    },
    /// Nothing goes on it any more, either way.
    Reset {
        stream: u32,
    },
    /// To be sent.
    Answer(Frame),
    /// More may be sent than before.
    WindowGrew,
    /// The client opens no more streams.
    GoAway,
}

/// How much may be sent on a stream now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    Bytes(usize),
    /// None until [`Event::WindowGrew`].
    None,
    /// The stream was finished or reset.
    Closed,
}

#[derive(Debug, Default)]
pub struct Session {
    inflater: Inflater,
    streams: BTreeMap<u32, Stream>,
    last_opened: u32,
    going_away: bool,
    /// `None` until the client spoke of windows.
    windows: Option<Windows>,
    /// Bytes sent since the connection began, for a client that speaks of windows late.
    sent: i64,
    /// Taken from the client and not told of yet.
    consumed: u32,
}

#[derive(Debug)]
struct Windows {
    initial: i64,
    session: i64,
}

#[derive(Debug, Default)]
struct Stream {
    finished_by_client: bool,
    finished_by_us: bool,
    sent: i64,
    /// What the client granted beyond the initial window.
    granted: i64,
    consumed: u32,
}

impl Stream {
    fn owes_update(&self) -> bool {
        self.consumed >= UPDATE_BYTES && !self.finished_by_client
    }
}

impl Session {
    /// Takes in a frame. An error is the connection's end.
    pub fn receive(&mut self, frame: Frame) -> Result<Vec<Event>, SpdyError> {
        Ok(match frame {
            Frame::SynStream { stream, fin, unidirectional, block } => {
                self.open(stream, fin, unidirectional, &block)?
            }
            Frame::Data { stream, fin, data } => self.data(stream, fin, data),
            Frame::RstStream { stream, .. } => match self.streams.remove(&stream) {
                Some(_) => vec![Event::Reset { stream }],
                None => Vec::new(),
            },
            Frame::Headers { stream, fin, block } => {
                // Further headers say nothing, but belong to the compressed stream.
                self.inflater.read(&block)?;
                if fin { self.client_finished(stream) } else { Vec::new() }
            }
            Frame::SynReply { stream, .. } => {
                return Err(SpdyError::Stream { stream, problem: "is answered, but the server opened none" });
            }
            // Odd ids are pings of the client, even ones would be answers to ours.
            Frame::Ping { id } if id % 2 == 1 => vec![Event::Answer(Frame::Ping { id })],
            Frame::Ping { .. } | Frame::Unknown { .. } => Vec::new(),
            Frame::Settings { initial_window } => self.settings(initial_window),
            Frame::WindowUpdate { stream, delta } => self.window_update(stream, delta)?,
            Frame::GoAway { .. } => {
                self.going_away = true;
                vec![Event::GoAway]
            }
        })
    }

    fn open(&mut self, stream: u32, fin: bool, unidirectional: bool, block: &[u8]) -> Result<Vec<Event>, SpdyError> {
        let headers = self.inflater.read(block)?;
        let from_client = stream % 2 == 1;
        if !from_client || stream <= self.last_opened {
            return Err(SpdyError::Stream { stream, problem: "is no new id of a client" });
        }
        self.last_opened = stream;
        if self.going_away || self.streams.len() >= STREAMS_MAX {
            let status = reset::REFUSED_STREAM;
            return Ok(vec![Event::Answer(Frame::RstStream { stream, status })]);
        }
        self.streams.insert(stream, Stream { finished_by_us: unidirectional, ..Stream::default() });
        let mut events = vec![Event::Opened { stream, headers }];
        if fin {
            events.extend(self.client_finished(stream));
        }
        Ok(events)
    }

    fn data(&mut self, stream: u32, fin: bool, data: Bytes) -> Vec<Event> {
        let problem = match self.streams.get(&stream) {
            None => Some(reset::INVALID_STREAM),
            Some(open) if open.finished_by_client => Some(reset::STREAM_ALREADY_CLOSED),
            Some(_) => None,
        };
        if let Some(status) = problem {
            // Reset a moment ago by us, as often as not. Its bytes count in the connection's window all the same.
            self.consumed = self.consumed.saturating_add(data.len() as u32);
            let mut events = Vec::new();
            if self.streams.remove(&stream).is_some() {
                events.push(Event::Answer(Frame::RstStream { stream, status }));
                events.push(Event::Reset { stream });
            }
            return events;
        }
        let mut events = Vec::new();
        if !data.is_empty() {
            events.push(Event::Data { stream, data });
        }
        if fin {
            events.extend(self.client_finished(stream));
        }
        events
    }

    fn client_finished(&mut self, stream: u32) -> Vec<Event> {
        let Some(open) = self.streams.get_mut(&stream) else { return Vec::new() };
        if std::mem::replace(&mut open.finished_by_client, true) {
            return Vec::new();
        }
        self.forget_if_over(stream);
        vec![Event::Finished { stream }]
    }

    fn forget_if_over(&mut self, stream: u32) {
        if self.streams.get(&stream).is_some_and(|open| open.finished_by_client && open.finished_by_us) {
            self.streams.remove(&stream);
        }
    }

    fn settings(&mut self, initial_window: Option<u32>) -> Vec<Event> {
        let Some(initial) = initial_window else { return Vec::new() };
        self.windows().initial = i64::from(initial);
        vec![Event::WindowGrew]
    }

    fn windows(&mut self) -> &mut Windows {
        let initial = i64::from(INITIAL_WINDOW);
        let session = initial - self.sent;
        self.windows.get_or_insert(Windows { initial, session })
    }

    fn window_update(&mut self, stream: u32, delta: u32) -> Result<Vec<Event>, SpdyError> {
        if delta == 0 {
            return Err(SpdyError::Malformed { frame: "WINDOW_UPDATE", problem: "adds nothing" });
        }
        let window = self.windows();
        let initial = window.initial;
        if stream == 0 {
            window.session += i64::from(delta);
            if window.session > WINDOW_MAX {
                return Err(SpdyError::Malformed { frame: "WINDOW_UPDATE", problem: "makes the window too large" });
            }
        } else if let Some(open) = self.streams.get_mut(&stream) {
            open.granted += i64::from(delta);
            if initial + open.granted - open.sent > WINDOW_MAX {
                self.streams.remove(&stream);
                let status = reset::FLOW_CONTROL_ERROR;
                return Ok(vec![Event::Answer(Frame::RstStream { stream, status }), Event::Reset { stream }]);
            }
        }
        Ok(vec![Event::WindowGrew])
    }

    /// How much of `wanted` bytes may be sent on `stream` now; they count as sent.
    pub fn take_room(&mut self, stream: u32, wanted: usize) -> Room {
        let Some(open) = self.streams.get_mut(&stream).filter(|open| !open.finished_by_us) else {
            return Room::Closed;
        };
        let mut room = wanted as i64;
        if let Some(windows) = &self.windows {
            room = room.min(windows.session).min(windows.initial + open.granted - open.sent);
        }
        if room <= 0 && wanted > 0 {
            return Room::None;
        }
        open.sent += room;
        self.sent += room;
        if let Some(windows) = &mut self.windows {
            windows.session -= room;
        }
        Room::Bytes(room as usize)
    }

    /// Ends our half; the frame that says so, unless that was done.
    pub fn finish(&mut self, stream: u32) -> Option<Frame> {
        let open = self.streams.get_mut(&stream).filter(|open| !open.finished_by_us)?;
        open.finished_by_us = true;
        self.forget_if_over(stream);
        Some(Frame::Data { stream, fin: true, data: Bytes::new() })
    }

    /// Ends both halves.
    pub fn reset(&mut self, stream: u32, status: u32) -> Option<Frame> {
        self.streams.remove(&stream).map(|_| Frame::RstStream { stream, status })
    }

    /// `bytes` of a stream were taken by whom they were for, or thrown away. True once the client should be told.
    pub fn consumed(&mut self, stream: u32, bytes: usize) -> bool {
        self.consumed = self.consumed.saturating_add(bytes as u32);
        if let Some(open) = self.streams.get_mut(&stream) {
            open.consumed = open.consumed.saturating_add(bytes as u32);
        }
        self.owes_updates()
    }

    /// A client is told in halves of the initial window.
    pub fn owes_updates(&self) -> bool {
        self.consumed >= UPDATE_BYTES || self.streams.values().any(Stream::owes_update)
    }

    /// What [`owes_updates`](Self::owes_updates) means.
    pub fn take_updates(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        if self.consumed >= UPDATE_BYTES {
            frames.push(Frame::WindowUpdate { stream: 0, delta: std::mem::take(&mut self.consumed) });
        }
        for (&stream, open) in self.streams.iter_mut().filter(|(_, open)| open.owes_update()) {
            frames.push(Frame::WindowUpdate { stream, delta: std::mem::take(&mut open.consumed) });
        }
        frames
    }

    /// What ends the connection in order: names the last stream that was served.
    pub fn go_away(&mut self) -> Frame {
        self.going_away = true;
        Frame::GoAway { last_stream: self.last_opened, status: 0 }
    }

    pub fn is_open(&self, stream: u32) -> bool {
        self.streams.contains_key(&stream)
    }

    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
