//! The engine reads the same messages from pieces of any size. The first byte of the input is the
//! size of the pieces.

#![no_main]

use std::sync::Arc;

use cortex_daemon::zmtp::{Engine, Incoming, MAX_UNSENT, Violation};
use libfuzzer_sys::fuzz_target;

/// Feeds an engine the pieces and answers the requests. Returns what it received, and the violation
/// that ended the connection.
fn play<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Incoming>, Option<Violation>) {
    let mut engine = Engine::new();
    let reply: Arc<[u8]> = Arc::from(&b"reply"[..]);
    let mut received = Vec::new();
    for piece in pieces {
        engine.receive(piece);
        loop {
            match engine.next_incoming() {
                Ok(Some(item)) => {
                    if let Incoming::Request(request) = &item {
                        engine.reply(&request.envelope, &reply);
                    }
                    received.push(item);
                }
                Ok(None) => break,
                Err(violation) => return (received, Some(violation)),
            }
        }
        assert!(engine.output().len() < MAX_UNSENT + 128 * 1024);
        let unsent = engine.output().len();
        engine.output().advance(unsent);
    }
    (received, None)
}

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else { return };
    let whole = play(std::iter::once(bytes));
    let pieces = play(bytes.chunks(usize::from(*cut).max(1)));
    assert_eq!(whole, pieces);
});
