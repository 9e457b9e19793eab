//! The ZeroMQ contexts of the process.
//!
//! They are never terminated: termination can wait for a context's I/O thread, and that one for the
//! resolver. So neither dropping a client nor ending the process can hang.

use std::mem;
use std::process;
use std::sync::{Arc, Mutex, PoisonError};

/// How many connections share a context. It has room for 1,023 sockets, and the zmq crate cannot
/// ask for more; a connection that is monitored has three.
const CONNECTIONS_EACH: usize = 320;

static CONTEXTS: Mutex<Vec<Room>> = Mutex::new(Vec::new());

/// A context, and the places in it that are taken.
struct Room {
    context: zmq::Context,
    taken: Arc<()>,
    /// The process that made it: in a forked child its I/O thread is missing.
    process: u32,
}

impl Room {
    fn new() -> Self {
        Self { context: zmq::Context::new(), taken: Arc::new(()), process: process::id() }
    }

    fn has_place(&self) -> bool {
        Arc::strong_count(&self.taken) <= CONNECTIONS_EACH
    }

    fn place(&self) -> Place {
        Place { context: self.context.clone(), _taken: Arc::clone(&self.taken) }
    }
}

/// A place for a connection's sockets, which all lie in one context.
pub(crate) struct Place {
    context: zmq::Context,
    _taken: Arc<()>,
}

impl Place {
    pub(crate) fn socket(&self, kind: zmq::SocketType) -> zmq::Result<zmq::Socket> {
        self.context.socket(kind)
    }
}

/// Has sockets made at a place in the first context that has room for them, or in a new one.
///
/// libzmq closes sockets in the background. So a context may be full although few of its places are
/// taken: when a daemon ends, all its clients replace their connections at once.
pub(crate) fn settle<T>(make: impl Fn(Place) -> zmq::Result<T>) -> zmq::Result<T> {
    let mut rooms = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if rooms.first().is_some_and(|room| room.process != process::id()) {
        // They cannot even be ended here.
        mem::forget(mem::take(&mut *rooms));
    }
    for room in rooms.iter().filter(|room| room.has_place()) {
        match make(room.place()) {
            Err(zmq::Error::EMFILE) => {}
            outcome => return outcome,
        }
    }
    let room = Room::new();
    // That it fails here as well is for want of descriptors: nobody has use for one context more.
    let sockets = make(room.place())?;
    rooms.push(room);
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_replaces_many_connections_at_once_finds_room() {
        for _ in 0..5 {
            let connect = |place: Place| {
                let sockets = [(); 3].map(|()| place.socket(zmq::PAIR));
                sockets.into_iter().collect::<zmq::Result<Vec<_>>>().map(|all| (all, place))
            };
            let connections: zmq::Result<Vec<_>> =
                (0..CONNECTIONS_EACH).map(|_| settle(connect)).collect();
            assert_eq!(connections.map(|all| all.len()), Ok(CONNECTIONS_EACH));
        }
    }
}
