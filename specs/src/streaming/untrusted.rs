//! What reads foreign bytes here, as functions of bytes: what the fuzz targets and the smoke test call. None of it may
//! panic or take long, whatever the bytes are. Not part of the interface.

use bytes::Bytes;

use super::channel::{ChannelMessage, ChannelProtocol, REMOTE_COMMAND, SizeReader};
use super::spdy::session::{Event, Room, STREAMS_MAX};
use super::spdy::{FrameReader, Session};

/// A client's whole connection, its bytes in pieces of a size that the first byte says. True unless it broke off.
pub fn spdy(bytes: &[u8]) -> bool {
    let Some((&size, bytes)) = bytes.split_first() else { return true };
    let (mut reader, mut session) = (FrameReader::default(), Session::default());
    for piece in bytes.chunks(usize::from(size).max(1)) {
        reader.buffer().extend_from_slice(piece);
        loop {
            let frame = match reader.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return is_one_line(&error),
            };
            match session.receive(frame) {
                Ok(events) => events.into_iter().for_each(|event| serve(&mut session, event)),
                Err(error) => return is_one_line(&error),
            }
            assert!(session.open_streams() <= STREAMS_MAX);
        }
    }
    true
}

/// As a server would that sends back what comes.
fn serve(session: &mut Session, event: Event) {
    match event {
        Event::Data { stream, data } => {
            session.consumed(stream, data.len());
            if let Room::Bytes(room) = session.take_room(stream, data.len()) {
                assert!(room <= data.len());
            }
        }
        Event::Finished { stream } => {
            session.finish(stream);
            assert_eq!(session.take_room(stream, 1), Room::Closed);
        }
        _ => {}
    }
}

/// A message of each channel protocol, and a stream of sizes.
pub fn channel(bytes: &[u8]) -> bool {
    let mut known = false;
    for name in REMOTE_COMMAND {
        let protocol = ChannelProtocol::from_name(name);
        if let Some(ChannelMessage::Data { channel, data }) =
            protocol.and_then(|protocol| protocol.read(Bytes::copy_from_slice(bytes)))
        {
            assert!(data.len() <= bytes.len() && (!name.contains("base64") || channel <= 9));
            known = true;
        }
    }
    SizeReader::default().push(bytes);
    known
}

fn is_one_line(error: &super::spdy::SpdyError) -> bool {
    let text = error.to_string();
    assert!(!text.contains('\n') && text.len() < 256, "{text:?}");
    false
}

#[cfg(test)]
mod tests {
    use super::super::spdy::Frame;
    use super::super::spdy::headers::{Deflater, Headers};
    use super::*;

    /// A client that forwards a port and ends it, in pieces of 16 bytes.
    fn session() -> Vec<u8> {
        let mut deflater = Deflater::default();
        let mut block = |kind: &str| deflater.write(&Headers::new(&[("streamtype", kind), ("port", "80")]));
        let frames = [
            Frame::SynStream { stream: 1, fin: true, unidirectional: false, block: block("error") },
            Frame::SynStream { stream: 3, fin: false, unidirectional: false, block: block("data") },
            Frame::Settings { initial_window: Some(1024) },
            Frame::WindowUpdate { stream: 3, delta: 100 },
            Frame::Data { stream: 3, fin: false, data: Bytes::from_static(b"GET / HTTP/1.0\r\n\r\n") },
            Frame::Ping { id: 1 },
            Frame::Headers { stream: 3, fin: true, block: block("more") },
            Frame::RstStream { stream: 3, status: 5 },
            Frame::GoAway { last_stream: 0, status: 0 },
        ];
        let mut bytes = bytes::BytesMut::from(&[16][..]);
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        bytes.to_vec()
    }

    #[test]
    fn the_seeds_are_taken() {
        assert!(spdy(include_bytes!("../../../fuzz/seeds/spdy/port-forward")));
        assert!(channel(include_bytes!("../../../fuzz/seeds/channel/stdin")));
    }

    #[test]
    fn nothing_that_is_almost_right_breaks_a_parser() {
        let seed = session();
        assert!(spdy(&seed));
        for at in 0..seed.len() {
            spdy(&seed[..at]);
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = seed.clone();
                bytes[at] = byte;
                spdy(&bytes);
                channel(&bytes[at..]);
            }
        }
    }
}
