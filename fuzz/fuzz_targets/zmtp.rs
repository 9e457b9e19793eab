//! The same conversation however its bytes are cut; the first byte of the input says how.

#![no_main]

use std::sync::Arc;

use cortex_daemon::zmtp::{Connection, Event, MAX_UNSENT, Violation};
use libfuzzer_sys::fuzz_target;

/// Plays a peer's bytes and answers its requests; gives its events and how it ended.
fn play<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Event>, Option<Violation>) {
    let mut connection = Connection::new();
    let reply: Arc<[u8]> = Arc::from(&b"reply"[..]);
    let mut events = Vec::new();
    for piece in pieces {
        connection.receive(piece);
        loop {
            match connection.next_event() {
                Ok(Some(event)) => {
                    if let Event::Request(request) = &event {
                        connection.reply(&request.envelope, &reply);
                    }
                    events.push(event);
                }
                Ok(None) => break,
                Err(violation) => return (events, Some(violation)),
            }
        }
        assert!(connection.output().len() < MAX_UNSENT + 128 * 1024);
        let unsent = connection.output().len();
        connection.output().advance(unsent);
    }
    (events, None)
}

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else { return };
    let whole = play(std::iter::once(bytes));
    let pieces = play(bytes.chunks(usize::from(*cut).max(1)));
    assert_eq!(whole, pieces);
});
