use super::*;
use wharf_specs::streaming::spdy::session::INITIAL_WINDOW;

const LONG: Duration = Duration::from_secs(600);

/// A client's side, frame by frame.
pub(in crate::streaming) struct Client {
    io: DuplexStream,
    frames: FrameReader,
    deflater: Deflater,
    out: BytesMut,
}

pub(in crate::streaming) fn connected(idle: Duration) -> (Client, Connection) {
    let (io, theirs) = tokio::io::duplex(1 << 20);
    let client = Client { io, frames: FrameReader::default(), deflater: Deflater::default(), out: BytesMut::new() };
    (client, Connection::start(theirs, idle))
}

impl Client {
    pub(in crate::streaming) async fn send(&mut self, frame: Frame) {
        frame.encode(&mut self.out);
        self.io.write_all_buf(&mut self.out).await.unwrap();
    }

    async fn open(&mut self, stream: u32) {
        self.open_with(stream, &[("streamtype", "data")]).await;
    }

    pub(in crate::streaming) async fn open_with(&mut self, stream: u32, headers: &[(&str, &str)]) {
        let block = self.deflater.write(&Headers::new(headers));
        self.send(Frame::SynStream { stream, fin: false, unidirectional: false, block }).await;
        assert!(matches!(self.next().await, Some(Frame::SynReply { stream: answered, .. }) if answered == stream));
    }

    pub(in crate::streaming) async fn data(&mut self, stream: u32, data: &[u8], fin: bool) {
        self.send(Frame::Data { stream, fin, data: Bytes::copy_from_slice(data) }).await;
    }

    /// What comes on `stream` to its end, which is the next that comes.
    pub(in crate::streaming) async fn rest_of(&mut self, stream: u32) -> Vec<u8> {
        let mut rest = Vec::new();
        loop {
            match self.next().await {
                Some(Frame::Data { stream: id, fin, data }) if id == stream => {
                    rest.extend(data);
                    if fin {
                        return rest;
                    }
                }
                other => panic!("{other:?} in place of data on {stream}"),
            }
        }
    }

    pub(in crate::streaming) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.frames.next_frame().unwrap() {
                return Some(frame);
            }
            if self.io.read_buf(self.frames.buffer()).await.unwrap() == 0 {
                return None;
            }
        }
    }
}

async fn read_all(stream: &mut StreamReader) -> Vec<u8> {
    let mut data = Vec::new();
    stream.read_to_end(&mut data).await.unwrap();
    data
}

#[tokio::test]
async fn streams_carry_bytes_both_ways_to_the_end_of_each() {
    let (mut client, mut connection) = connected(LONG);
    client.open(1).await;
    let mut stream = connection.accept().await.unwrap();
    assert_eq!(stream.headers.get("streamtype"), Some("data"));
    client.data(1, b"to the server", true).await;
    assert_eq!(read_all(&mut stream.reader).await, b"to the server");
    stream.writer.send(Bytes::from_static(b"and back")).await.unwrap();
    stream.writer.finish().await;
    assert_eq!(client.rest_of(1).await, b"and back");
    assert!(stream.writer.send(Bytes::from_static(b"late")).await.is_err());
}

#[tokio::test]
async fn a_reader_that_stands_still_holds_no_other_stream_of_a_client_that_minds_its_windows() {
    let (mut client, mut connection) = connected(LONG);
    client.open(1).await;
    let _stalled = connection.accept().await.unwrap();
    client.open(3).await;
    let mut served = connection.accept().await.unwrap();
    client.data(1, &vec![0; INITIAL_WINDOW as usize / 2], false).await;
    for round in 0..4 {
        client.data(3, &vec![round; INITIAL_WINDOW as usize / 4], false).await;
        let mut part = vec![0; INITIAL_WINDOW as usize / 4];
        served.reader.read_exact(&mut part).await.unwrap();
        assert!(part.iter().all(|byte| *byte == round));
    }
    let delta = INITIAL_WINDOW / 2;
    let mut told = Vec::new();
    while told.len() < 4 {
        told.push(client.next().await.unwrap());
    }
    let of = |stream| told.iter().filter(|frame| **frame == Frame::WindowUpdate { stream, delta }).count();
    assert_eq!((of(0), of(1), of(3)), (2, 0, 2), "{told:?}");
}

#[tokio::test]
async fn a_window_of_the_client_is_not_overrun() {
    let (mut client, mut connection) = connected(LONG);
    client.send(Frame::Settings { initial_window: Some(10) }).await;
    client.open(1).await;
    let stream = connection.accept().await.unwrap();
    let sending = tokio::spawn(async move { stream.writer.send(Bytes::from(vec![7; 15])).await });
    assert!(matches!(client.next().await, Some(Frame::Data { data, .. }) if data.len() == 10));
    client.send(Frame::Ping { id: 1 }).await;
    assert_eq!(client.next().await, Some(Frame::Ping { id: 1 }), "nothing more fits");
    client.send(Frame::WindowUpdate { stream: 1, delta: 5 }).await;
    assert!(matches!(client.next().await, Some(Frame::Data { data, .. }) if data.len() == 5));
    sending.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reset_ends_a_stream_that_was_half_closed_and_one_that_waits_for_room() {
    let (mut client, mut connection) = connected(LONG);
    client.send(Frame::Settings { initial_window: Some(1) }).await;
    client.open(1).await;
    let stream = connection.accept().await.unwrap();
    client.data(1, b"", true).await;
    let over = stream.writer.over().clone();
    let sending = tokio::spawn(async move { stream.writer.send(Bytes::from_static(b"more than one")).await });
    assert!(matches!(client.next().await, Some(Frame::Data { .. })));
    client.send(Frame::RstStream { stream: 1, status: reset::CANCEL }).await;
    over.cancelled().await;
    assert!(sending.await.unwrap().is_err());
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_or_stands_still_is_cut_off() {
    let (mut client, mut connection) = connected(LONG);
    client.io.write_all(b"GET / HTTP/1.1 is not what comes after the upgrade\r\n").await.unwrap();
    client.send(Frame::Ping { id: 1 }).await;
    client.io.write_all(&[0x80, 2, 0, 1, 0, 0, 0, 0]).await.unwrap();
    client.io.shutdown().await.unwrap();
    assert!(connection.accept().await.is_none());
    let (mut client, mut connection) = connected(Duration::from_millis(10));
    assert!(connection.accept().await.is_none());
    assert_eq!(client.next().await, None);
}

#[tokio::test]
async fn closing_says_good_bye_after_all_that_was_sent() {
    let (mut client, mut connection) = connected(LONG);
    client.open(1).await;
    let stream = connection.accept().await.unwrap();
    stream.writer.send(Bytes::from_static(b"last")).await.unwrap();
    let closing = tokio::spawn(connection.close());
    assert!(matches!(client.next().await, Some(Frame::Data { data, .. }) if data == "last"));
    assert_eq!(client.next().await, Some(Frame::GoAway { last_stream: 1, status: 0 }));
    assert!(!closing.is_finished(), "the client closes first");
    drop(client);
    closing.await.unwrap();
}
