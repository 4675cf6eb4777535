use super::super::headers::Deflater;
use super::*;

struct Client {
    session: Session,
    deflater: Deflater,
}

impl Client {
    fn new() -> Self {
        Self { session: Session::default(), deflater: Deflater::default() }
    }

    fn open(&mut self, stream: u32, fin: bool) -> Result<Vec<Event>, SpdyError> {
        let block = self.deflater.write(&Headers::new(&[("streamtype", "data")]));
        self.session.receive(Frame::SynStream { stream, fin, unidirectional: false, block })
    }

    fn data(&mut self, stream: u32, fin: bool, data: &'static [u8]) -> Vec<Event> {
        self.session.receive(Frame::Data { stream, fin, data: Bytes::from_static(data) }).unwrap()
    }
}

#[test]
fn a_stream_is_gone_when_both_halves_are_finished() {
    let mut client = Client::new();
    assert!(matches!(&client.open(1, false).unwrap()[..], [Event::Opened { stream: 1, .. }]));
    assert_eq!(
        client.data(1, true, b"x"),
        [Event::Data { stream: 1, data: Bytes::from_static(b"x") }, Event::Finished { stream: 1 }]
    );
    assert_eq!(client.session.take_room(1, 5), Room::Bytes(5));
    assert!(client.session.finish(1).is_some());
    assert_eq!(client.session.finish(1), None);
    assert_eq!(client.session.open_streams(), 0);
    assert_eq!(client.session.take_room(1, 1), Room::Closed);
}

#[test]
fn data_after_the_end_resets_the_stream() {
    let mut client = Client::new();
    client.open(1, true).unwrap();
    let answer = Frame::RstStream { stream: 1, status: reset::STREAM_ALREADY_CLOSED };
    assert_eq!(client.data(1, false, b"x"), [Event::Answer(answer), Event::Reset { stream: 1 }]);
    assert_eq!(client.data(1, false, b"x"), []);
}

#[test]
fn ids_must_be_odd_and_grow() {
    for (first, second) in [(1, 1), (3, 1), (1, 2)] {
        let mut client = Client::new();
        client.open(first, false).unwrap();
        assert!(client.open(second, false).is_err(), "{second}");
    }
}

#[test]
fn streams_beyond_the_limit_and_after_goaway_are_refused() {
    let mut client = Client::new();
    for index in 0..STREAMS_MAX as u32 {
        client.open(2 * index + 1, false).unwrap();
    }
    let refused = |stream| vec![Event::Answer(Frame::RstStream { stream, status: reset::REFUSED_STREAM })];
    let next = 2 * STREAMS_MAX as u32 + 1;
    assert_eq!(client.open(next, false).unwrap(), refused(next));
    client.session.receive(Frame::RstStream { stream: 1, status: reset::CANCEL }).unwrap();
    assert!(matches!(client.open(next + 2, false).unwrap()[..], [Event::Opened { .. }]));
    client.session.receive(Frame::RstStream { stream: 3, status: reset::CANCEL }).unwrap();
    client.session.receive(Frame::GoAway { last_stream: 0, status: 0 }).unwrap();
    assert_eq!(client.open(next + 4, false).unwrap(), refused(next + 4));
}

#[test]
fn pings_of_the_client_are_answered_and_no_others() {
    let mut session = Session::default();
    assert_eq!(session.receive(Frame::Ping { id: 7 }).unwrap(), [Event::Answer(Frame::Ping { id: 7 })]);
    assert_eq!(session.receive(Frame::Ping { id: 8 }).unwrap(), []);
}

#[test]
fn a_client_without_windows_is_sent_what_there_is() {
    let mut client = Client::new();
    client.open(1, false).unwrap();
    assert_eq!(client.session.take_room(1, 10 << 20), Room::Bytes(10 << 20));
}

#[test]
fn a_client_with_windows_is_sent_no_more_than_fits() {
    let mut client = Client::new();
    client.session.receive(Frame::Settings { initial_window: Some(10) }).unwrap();
    client.open(1, false).unwrap();
    assert_eq!(client.session.take_room(1, 100), Room::Bytes(10));
    assert_eq!(client.session.take_room(1, 100), Room::None);
    assert_eq!(client.session.receive(Frame::WindowUpdate { stream: 1, delta: 7 }).unwrap(), [Event::WindowGrew]);
    assert_eq!(client.session.take_room(1, 100), Room::Bytes(7));
    // The connection's own window is 64 KiB until it grows as well.
    client.session.receive(Frame::WindowUpdate { stream: 1, delta: 1 << 20 }).unwrap();
    assert_eq!(client.session.take_room(1, 1 << 20), Room::Bytes((64 << 10) - 17));
    assert_eq!(client.session.take_room(1, 1), Room::None);
    client.session.receive(Frame::WindowUpdate { stream: 0, delta: 3 }).unwrap();
    assert_eq!(client.session.take_room(1, 10), Room::Bytes(3));
}

#[test]
fn windows_that_overflow_end_the_stream_or_the_connection() {
    let mut client = Client::new();
    client.open(1, false).unwrap();
    let update = |stream| Frame::WindowUpdate { stream, delta: i32::MAX as u32 };
    let events = client.session.receive(update(1)).unwrap();
    assert!(matches!(events[..], [Event::Answer(Frame::RstStream { .. }), Event::Reset { stream: 1 }]), "{events:?}");
    assert!(client.session.receive(update(0)).is_err());
}

#[test]
fn what_was_taken_is_told_in_halves_of_the_window() {
    let mut client = Client::new();
    client.open(1, false).unwrap();
    assert!(!client.session.consumed(1, 1000));
    let delta = INITIAL_WINDOW / 2;
    assert!(client.session.consumed(1, delta as usize - 1000));
    let told = [Frame::WindowUpdate { stream: 0, delta }, Frame::WindowUpdate { stream: 1, delta }];
    assert_eq!(client.session.take_updates(), told);
    assert!(!client.session.owes_updates());
}
