//! The ZMTP engine without a socket. It reads the same messages from pieces of any size. No bytes
//! make it panic, or use more memory than its limits allow.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use cortex_daemon::zmtp::{
    Body, Engine, Envelope, Incoming, MAX_BODY, MAX_ENVELOPE, MAX_REFUSED_BODY, MAX_UNSENT,
    Request, Violation,
};
use proptest::collection::vec;
use proptest::prelude::*;

const MORE: u8 = 1;
const COMMAND: u8 = 4;

fn greeting() -> Vec<u8> {
    let mut greeting = vec![0; 64];
    greeting[0] = 0xff;
    greeting[9] = 0x7f;
    greeting[10] = 3;
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

/// A frame. Its length field has 8 bytes if `long`, or if the payload needs it.
fn frame(flags: u8, payload: &[u8], long: bool) -> Vec<u8> {
    let header = match u8::try_from(payload.len()) {
        Ok(length) if !long => vec![flags, length],
        _ => [&[flags | 2][..], &(payload.len() as u64).to_be_bytes()].concat(),
    };
    [&header, payload].concat()
}

fn ready(socket_type: &str) -> Vec<u8> {
    let length = u8::try_from(socket_type.len()).unwrap();
    let command = [b"\x05READY\x0bSocket-Type\0\0\0", &[length][..], socket_type.as_bytes()];
    frame(COMMAND, &command.concat(), false)
}

fn message(frames: &[&[u8]]) -> Vec<u8> {
    let last = frames.len() - 1;
    let flags = |index| if index < last { MORE } else { 0 };
    frames.iter().enumerate().flat_map(|(at, payload)| frame(flags(at), payload, false)).collect()
}

fn handshake() -> Vec<u8> {
    [greeting(), ready("REQ")].concat()
}

/// All complete messages that the engine has read.
fn received(engine: &mut Engine) -> Result<Vec<Incoming>, Violation> {
    let mut received = Vec::new();
    while let Some(item) = engine.next_incoming()? {
        received.push(item);
    }
    Ok(received)
}

fn sent(engine: &mut Engine) -> Vec<u8> {
    let mut sent = Vec::new();
    while !engine.output().is_empty() {
        let slices: Vec<u8> = engine.output().slices().iter().flat_map(|s| s.to_vec()).collect();
        engine.output().advance(slices.len());
        sent.extend(slices);
    }
    sent
}

/// An engine after the handshake, with no unsent output.
fn open() -> Engine {
    let mut engine = Engine::new();
    engine.receive(&handshake());
    assert_eq!(received(&mut engine), Ok(vec![]));
    assert!(engine.is_open());
    sent(&mut engine);
    engine
}

/// What an engine receives from these bytes after the handshake.
fn received_from(bytes: &[u8]) -> Result<Vec<Incoming>, Violation> {
    let mut engine = open();
    engine.receive(bytes);
    received(&mut engine)
}

/// The bytes that the engine sends when each request in `bytes` is answered with `body`.
fn answered(bytes: &[u8], body: &[u8]) -> Vec<u8> {
    let mut engine = open();
    engine.receive(bytes);
    for item in received(&mut engine).unwrap() {
        if let Incoming::Request(request) = item {
            engine.reply(&request.envelope, &Arc::from(body));
        }
    }
    sent(&mut engine)
}

fn request(body: Body) -> Incoming {
    Incoming::Request(Request { envelope: Envelope::default(), body })
}

#[test]
fn the_daemon_sends_its_greeting_first() {
    let mut engine = Engine::new();
    let greeting = sent(&mut engine);
    assert_eq!(greeting.len(), 64);
    assert_eq!((greeting[0], greeting[9], &greeting[10..17]), (0xff, 0x7f, &b"\x03\x01NULL\0"[..]));

    engine.receive(&self::greeting());
    assert_eq!(received(&mut engine), Ok(vec![]));
    assert_eq!(sent(&mut engine), ready("ROUTER"));
    assert!(!engine.is_open());
    engine.receive(&ready("DEALER"));
    assert_eq!(received(&mut engine), Ok(vec![]));
    assert!(engine.is_open());
}

#[test]
fn a_wrong_socket_type_gets_an_error_with_the_reason() {
    let mut engine = Engine::new();
    engine.receive(&[greeting(), ready("SUB")].concat());
    assert_eq!(received(&mut engine), Err(Violation::SocketType("SUB".into())));
    let sent = sent(&mut engine);
    let error = &sent[64 + ready("ROUTER").len()..];
    assert_eq!((error[0], &error[2..8]), (COMMAND, &b"\x05ERROR"[..]));
    assert!(String::from_utf8_lossy(error).contains("\"SUB\" socket"));
}

#[test]
fn only_ready_opens_a_connection() {
    let cases = [
        (message(&[b"", b"body"]), Violation::Handshake("a message came before READY")),
        (
            frame(COMMAND, b"\x04PING\0\0", false),
            Violation::Handshake("its first command is not READY"),
        ),
        (frame(COMMAND, b"\x05ERROR\x04nope", false), Violation::PeerError("nope".into())),
        (frame(COMMAND, b"", false), Violation::Handshake("a command has no name")),
    ];
    for (bytes, violation) in cases {
        let mut engine = Engine::new();
        engine.receive(&[greeting(), bytes].concat());
        assert_eq!(received(&mut engine), Err(violation));
    }
}

#[test]
fn a_request_is_answered_with_its_envelope() {
    assert_eq!(answered(&message(&[b"", b"ask"]), b"reply"), message(&[b"", b"reply"]));
    // `ZMQ_REQ_CORRELATE` puts a number before the delimiter. A proxy puts routing ids there.
    let correlated = message(&[b"\0\0\0\x07", b"", b"ask"]);
    assert_eq!(answered(&correlated, b"reply"), message(&[b"\0\0\0\x07", b"", b"reply"]));
    let far = vec![b'i'; 300];
    let proxied = message(&[&far, b"hop", b"", b"ask"]);
    assert_eq!(answered(&proxied, b"reply"), message(&[&far, b"hop", b"", b"reply"]));
    // The reply has short length fields, even if the request has long ones.
    let long = [frame(MORE, b"id", true), frame(MORE, b"", true), frame(0, b"ask", true)].concat();
    assert_eq!(answered(&long, b""), message(&[b"id", b"", b""]));
}

#[test]
fn replies_of_any_length_are_framed() {
    for length in [0, 1, 255, 256, 4095, 4096, 100_000] {
        let body = vec![b'x'; length];
        assert_eq!(answered(&message(&[b"", b"ask"]), &body), message(&[b"", &body]));
    }
}

#[test]
fn bodies_have_limits() {
    let body = |length: usize| vec![b'x'; length];
    let whole = Body::Whole(body(MAX_BODY));
    assert_eq!(received_from(&message(&[b"", &body(MAX_BODY)])), Ok(vec![request(whole)]));
    for length in [MAX_BODY + 1, MAX_REFUSED_BODY] {
        let too_long = request(Body::TooLong { length });
        assert_eq!(received_from(&message(&[b"", &body(length)])), Ok(vec![too_long]));
    }
    let length = MAX_REFUSED_BODY + 1;
    let violation = Violation::RequestTooLong(length as u64);
    assert_eq!(received_from(&message(&[b"", &body(length)])), Err(violation));
    assert_eq!(
        received_from(&message(&[b"", b""])),
        Ok(vec![request(Body::Whole(Vec::new()))]),
        "an empty body is a body"
    );
}

#[test]
fn several_parts_are_one_request() {
    let several = |count| Ok(vec![request(Body::SeveralParts { count })]);
    assert_eq!(received_from(&message(&[b"", b"a", b"b"])), several(2));
    assert_eq!(received_from(&message(&[b"", b"", b"", b""])), several(3));
    let large = vec![0; MAX_BODY + 1];
    assert_eq!(received_from(&message(&[b"", &large, b"b"])), several(2));
    assert_eq!(received_from(&message(&[b"", b"a", &large])), several(2));

    let mut endless = frame(MORE, b"", false).repeat(MAX_REFUSED_BODY + 2);
    assert!(matches!(received_from(&endless), Err(Violation::RequestTooLong(_))));
    endless.truncate(2 * 100);
    endless.extend(frame(0, b"", false));
    assert_eq!(received_from(&endless), several(100));
}

#[test]
fn messages_without_a_delimiter_or_a_body_are_dropped() {
    let cases: [&[&[u8]]; 4] = [&[b"body"], &[b"a", b"b", b"c"], &[b""], &[b"id", b""]];
    for frames in cases {
        let bytes = [message(frames), message(&[b"", b"next"])].concat();
        let next = request(Body::Whole(b"next".to_vec()));
        assert_eq!(received_from(&bytes), Ok(vec![Incoming::Dropped, next]));
    }
    let large = vec![b'x'; MAX_REFUSED_BODY];
    assert_eq!(received_from(&message(&[&large])), Ok(vec![Incoming::Dropped]));
}

#[test]
fn envelopes_have_a_limit() {
    let id = vec![b'i'; MAX_ENVELOPE / 2];
    assert_eq!(received_from(&message(&[&id, b"", b"ask"])).unwrap().len(), 1);
    assert_eq!(received_from(&message(&[&id, &id, b"", b"ask"])), Err(Violation::EnvelopeTooLong));
    let long = vec![b'i'; MAX_ENVELOPE + 1];
    assert_eq!(received_from(&message(&[&long, b"", b"ask"])), Err(Violation::EnvelopeTooLong));
}

#[test]
fn a_pong_has_the_context_of_its_ping() {
    for context in [&b""[..], b"x", b"sixteen bytes ok"] {
        let ping = frame(COMMAND, &[b"\x04PING\x01\x02", context].concat(), false);
        let expected = frame(COMMAND, &[b"\x04PONG", context].concat(), false);
        assert_eq!(answered(&ping, b""), expected);
    }
    // A PING may come between the frames of a message.
    let ping = frame(COMMAND, b"\x04PING\0\0", false);
    let split = [frame(MORE, b"", false), ping, frame(0, b"ask", false)].concat();
    assert_eq!(received_from(&split), Ok(vec![request(Body::Whole(b"ask".to_vec()))]));
    // Other commands get no answer.
    for command in [&b"\x04PONG"[..], b"\x09SUBSCRIBE", b"\x03XYZabc"] {
        assert_eq!(answered(&frame(COMMAND, command, false), b""), b"");
    }
}

#[test]
fn a_heartbeat_announces_a_time_to_live_in_tenths_of_a_second() {
    let mut engine = open();
    assert_eq!(engine.heartbeat_ttl(), None);
    for (data, ttl_ms) in [
        (&b"\x00\x05"[..], Some(500)),
        (b"\x01\x00context", Some(25_600)),
        (b"\xff\xff", Some(6_553_500)),
        (b"\x00\x00context", None),
        (b"\x00\x01", Some(100)),
        (b"\x00", None),
    ] {
        engine.receive(&frame(COMMAND, &[b"\x04PING", data].concat(), false));
        assert_eq!(received(&mut engine), Ok(vec![]));
        assert_eq!(engine.heartbeat_ttl(), ttl_ms.map(Duration::from_millis), "{data:?}");
    }
    // Other traffic keeps the last one, also a heartbeat between the frames of a message.
    let ping = frame(COMMAND, b"\x04PING\x00\x07", false);
    engine.receive(&[frame(MORE, b"", false), ping, frame(0, b"ask", false)].concat());
    assert_eq!(received(&mut engine).unwrap().len(), 1);
    engine.receive(&frame(COMMAND, b"\x04PONG", false));
    assert_eq!(received(&mut engine), Ok(vec![]));
    assert_eq!(engine.heartbeat_ttl(), Some(Duration::from_millis(700)));
}

#[test]
fn no_requests_are_read_from_a_peer_that_does_not_read() {
    let mut engine = open();
    let body: Arc<[u8]> = vec![b'x'; 150_000].into();
    engine.receive(&message(&[b"", b"ask"]).repeat(100));
    let mut answered = 0;
    while let Some(Incoming::Request(request)) = engine.next_incoming().unwrap() {
        engine.reply(&request.envelope, &body);
        answered += 1;
    }
    assert_eq!(answered, MAX_UNSENT.div_ceil(150_000), "one reply may exceed the limit");
    assert!(!engine.wants_read());
    assert!(engine.output().len() < MAX_UNSENT + 151_000);

    let mut bytes = sent(&mut engine).len();
    while let Some(Incoming::Request(request)) = engine.next_incoming().unwrap() {
        engine.reply(&request.envelope, &body);
        answered += 1;
        bytes += sent(&mut engine).len();
    }
    assert_eq!((answered, bytes), (100, 100 * (150_000 + 11)), "no request is lost");

    // Unsent PONGs count as well.
    let mut engine = open();
    engine.receive(&frame(COMMAND, b"\x04PING\0\0sixteen bytes ok", false).repeat(100_000));
    assert_eq!(received(&mut engine), Ok(vec![]));
    assert!(engine.output().len() < MAX_UNSENT + 100);
}

/// The bytes of a connection with each kind of message, and what an engine receives from them.
fn conversation() -> (Vec<u8>, Vec<Incoming>) {
    let bytes = [
        handshake(),
        message(&[b"", b"first"]),
        message(&[b"id", b"", b"second"]),
        frame(COMMAND, b"\x04PING\0\0ctx", false),
        message(&[b"no delimiter"]),
        message(&[b"", b"two", b"parts"]),
        [frame(MORE, b"", true), frame(0, b"long", true)].concat(),
        message(&[b"", &vec![b'x'; 300]]),
    ]
    .concat();
    let mut engine = Engine::new();
    engine.receive(&bytes);
    let received = received(&mut engine).unwrap();
    assert_eq!(received.len(), 6);
    (bytes, received)
}

/// What an engine receives and sends when the bytes come in these pieces.
fn in_pieces<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Incoming>, Vec<u8>) {
    let (mut engine, mut all, mut output) = (Engine::new(), Vec::new(), Vec::new());
    for piece in pieces {
        engine.receive(piece);
        for item in received(&mut engine).unwrap() {
            if let Incoming::Request(request) = &item {
                engine.reply(&request.envelope, &Arc::from(&b"reply"[..]));
            }
            all.push(item);
        }
        output.extend(sent(&mut engine));
    }
    (all, output)
}

#[test]
fn every_split_gives_the_same_conversation() {
    let (bytes, expected) = conversation();
    let (whole, output) = in_pieces(std::iter::once(&bytes[..]));
    assert_eq!(whole, expected);
    for at in 0..=bytes.len() {
        let (received, parts) = in_pieces([&bytes[..at], &bytes[at..]].into_iter());
        assert_eq!(received, expected, "cut at {at}");
        assert_eq!(parts.len(), output.len(), "cut at {at}");
    }
    let (received, parts) = in_pieces(bytes.chunks(1));
    assert_eq!((received, parts.len()), (expected, output.len()), "byte by byte");
}

/// Valid and invalid frames of all kinds.
fn any_frames() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        3 => vec(any::<u8>(), 0..40).prop_map(|payload| frame(MORE, &payload, false)),
        3 => vec(any::<u8>(), 0..40).prop_map(|payload| frame(0, &payload, true)),
        2 => Just(frame(MORE, b"", false)),
        2 => vec(any::<u8>(), 0..20)
            .prop_map(|data| frame(COMMAND, &[b"\x04PING", &data[..]].concat(), false)),
        1 => vec(any::<u8>(), 0..20).prop_map(|data| frame(COMMAND, &data, false)),
        1 => vec(any::<u8>(), 0..12),
    ];
    vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

/// Feeds an engine pieces of these sizes, until the bytes end or violate the protocol. Returns what
/// it received, and the violation.
fn play(bytes: &[u8], cuts: &[usize]) -> (Vec<Incoming>, Option<Violation>) {
    let mut engine = Engine::new();
    let (mut all, mut rest) = (Vec::new(), bytes);
    for &cut in cuts.iter().chain([&usize::MAX]) {
        let (piece, behind) = rest.split_at(cut.min(rest.len()));
        rest = behind;
        engine.receive(piece);
        loop {
            match engine.next_incoming() {
                Ok(Some(item)) => all.push(item),
                Ok(None) => break,
                Err(violation) => return (all, Some(violation)),
            }
        }
    }
    (all, None)
}

proptest! {
    #[test]
    fn cuts_change_nothing(frames in any_frames(), cuts in vec(0..30_usize, 0..40)) {
        let bytes = [handshake(), frames].concat();
        prop_assert_eq!(play(&bytes, &cuts), play(&bytes, &[]));
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..400), shake: bool) {
        let bytes = if shake { [handshake(), bytes].concat() } else { bytes };
        play(&bytes, &[]);
    }
}
