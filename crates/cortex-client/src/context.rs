//! The ZeroMQ contexts of the process.
//!
//! They are never terminated: termination can wait for a context's I/O thread, and that one for the
//! resolver. So neither dropping a client nor ending the process can hang.

use std::sync::{Arc, Mutex, PoisonError};

/// How many connections share a context. It has room for 1,023 sockets, and the zmq crate cannot
/// ask for more; a connection that is monitored has three.
const CONNECTIONS_EACH: usize = 320;

static CONTEXTS: Mutex<Vec<Room>> = Mutex::new(Vec::new());

/// A context, and the places in it that are taken.
struct Room {
    context: zmq::Context,
    taken: Arc<()>,
}

/// A place for a connection's sockets, which all lie in one context.
pub(crate) struct Place {
    context: zmq::Context,
    _taken: Arc<()>,
}

impl Place {
    /// Takes a place in the first context that has room, or in a new one.
    pub(crate) fn take() -> Self {
        let mut rooms = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = |room: &&Room| Arc::strong_count(&room.taken) <= CONNECTIONS_EACH;
        if let Some(room) = rooms.iter().find(has_room) {
            return Self { context: room.context.clone(), _taken: Arc::clone(&room.taken) };
        }
        let room = Room { context: zmq::Context::new(), taken: Arc::new(()) };
        let place = Self { context: room.context.clone(), _taken: Arc::clone(&room.taken) };
        rooms.push(room);
        place
    }

    pub(crate) fn socket(&self, kind: zmq::SocketType) -> zmq::Result<zmq::Socket> {
        self.context.socket(kind)
    }
}
