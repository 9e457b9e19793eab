//! The ZeroMQ contexts of the process.
//!
//! The client never terminates a context: termination can wait for the context's I/O thread, and
//! the I/O thread for the resolver. So neither a dropped client nor the end of the process can
//! hang.

use std::mem;
use std::process;
use std::sync::{Arc, Mutex, PoisonError};

/// How many connections share a context. A context has room for 1,023 sockets, which the zmq crate
/// cannot raise. A monitored connection uses three.
const CONNECTIONS_PER_CONTEXT: usize = 320;

static CONTEXTS: Mutex<Vec<SharedContext>> = Mutex::new(Vec::new());

/// A context, and a count of its used slots.
struct SharedContext {
    context: zmq::Context,
    used: Arc<()>,
    /// The process that made it. A forked child does not have its I/O thread.
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

/// Room for the sockets of one connection, which share one context.
pub(crate) struct ContextSlot {
    context: zmq::Context,
    _used: Arc<()>,
}

impl ContextSlot {
    pub(crate) fn socket(&self, kind: zmq::SocketType) -> zmq::Result<zmq::Socket> {
        self.context.socket(kind)
    }
}

/// Makes sockets in the first context with a free slot, or in a new context.
///
/// libzmq closes sockets in the background. So a context may be full although few of its slots are
/// used: when a daemon ends, all its clients replace their connections at once.
pub(crate) fn create_sockets<T>(make: impl Fn(ContextSlot) -> zmq::Result<T>) -> zmq::Result<T> {
    let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if contexts.first().is_some_and(|context| context.process != process::id()) {
        // A forked child cannot even terminate the contexts of its parent.
        mem::forget(mem::take(&mut *contexts));
    }
    for context in contexts.iter().filter(|context| context.has_free_slot()) {
        match make(context.slot()) {
            Err(zmq::Error::EMFILE) => {}
            outcome => return outcome,
        }
    }
    let context = SharedContext::new();
    // When this fails too, the process has no descriptors left: keep no further context.
    let sockets = make(context.slot())?;
    contexts.push(context);
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_connections_can_be_replaced_at_once() {
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
