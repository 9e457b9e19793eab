//! The ZeroMQ contexts of the process.
//!
//! They are never terminated: termination can wait for a context's I/O thread, and that one for the
//! resolver. So neither dropping a client nor ending the process can hang.

use std::mem;
use std::process;
use std::sync::{Arc, Mutex, PoisonError};

/// How many connections share a context. It has room for 1,023 sockets, and the zmq crate cannot
/// ask for more; a connection that is monitored has three.
const CONNECTIONS_PER_CONTEXT: usize = 320;

static CONTEXTS: Mutex<Vec<SharedContext>> = Mutex::new(Vec::new());

/// A context, and the places in it that are taken.
struct SharedContext {
    context: zmq::Context,
    used: Arc<()>,
    /// The process that made it: in a forked child its I/O thread is missing.
    process: u32,
}

impl SharedContext {
    fn new() -> Self {
        Self { context: zmq::Context::new(), used: Arc::new(()), process: process::id() }
    }

    fn has_free_slot(&self) -> bool {
        Arc::strong_count(&self.used) <= CONNECTIONS_PER_CONTEXT
    }

    fn slot(&self) -> ContextSlot {
        ContextSlot { context: self.context.clone(), _used: Arc::clone(&self.used) }
    }
}

/// A place for a connection's sockets, which all lie in one context.
pub(crate) struct ContextSlot {
    context: zmq::Context,
    _used: Arc<()>,
}

impl ContextSlot {
    pub(crate) fn socket(&self, kind: zmq::SocketType) -> zmq::Result<zmq::Socket> {
        self.context.socket(kind)
    }
}

/// Has sockets made at a place in the first context that has room for them, or in a new one.
///
/// libzmq closes sockets in the background. So a context may be full although few of its places are
/// taken: when a daemon ends, all its clients replace their connections at once.
pub(crate) fn create_sockets<T>(make: impl Fn(ContextSlot) -> zmq::Result<T>) -> zmq::Result<T> {
    let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if contexts.first().is_some_and(|context| context.process != process::id()) {
        // They cannot even be ended here.
        mem::forget(mem::take(&mut *contexts));
    }
    for context in contexts.iter().filter(|context| context.has_free_slot()) {
        match make(context.slot()) {
            Err(zmq::Error::EMFILE) => {}
            outcome => return outcome,
        }
    }
    let context = SharedContext::new();
    // That it fails here as well is for want of descriptors: nobody has use for one context more.
    let sockets = make(context.slot())?;
    contexts.push(context);
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_replaces_many_connections_at_once_finds_room() {
        for _ in 0..5 {
            let connect = |slot: ContextSlot| {
                let sockets = [(); 3].map(|()| slot.socket(zmq::PAIR));
                sockets.into_iter().collect::<zmq::Result<Vec<_>>>().map(|all| (all, slot))
            };
            let connections: zmq::Result<Vec<_>> =
                (0..CONNECTIONS_PER_CONTEXT).map(|_| create_sockets(connect)).collect();
            assert_eq!(connections.map(|all| all.len()), Ok(CONNECTIONS_PER_CONTEXT));
        }
    }
}
