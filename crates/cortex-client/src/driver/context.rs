//! The ZeroMQ contexts of the process.
//!
//! The client never terminates a context: termination can wait for the context's I/O thread. So
//! neither a dropped client nor the end of the process can hang.
//!
//! libzmq aborts the process when it has no descriptors for a new context. So the client checks
//! first that enough are free.

use std::io;
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::error::{Error, Result, SocketError};

/// How many connections share a context. A context has room for 1,023 sockets, which the zmq crate
/// cannot raise. A connection uses three.
const CONNECTIONS_PER_CONTEXT: usize = 320;
/// The descriptors of a new context with its first connection. The figure is for a libzmq without
/// eventfd, and a few are for the program's other threads.
const CONTEXT_DESCRIPTORS: usize = 32;
/// The descriptors of a connection, in the same way.
const CONNECTION_DESCRIPTORS: usize = 12;

static CONTEXTS: OnceLock<ProcessContexts> = OnceLock::new();

/// The contexts of one process. A forked child has the contexts of its parent, but not their I/O
/// threads, and a thread that was not forked may hold their lock. So the child never touches them
/// and adds its own.
struct ProcessContexts {
    process: u32,
    contexts: Mutex<Vec<SharedContext>>,
    of_forked_child: OnceLock<Box<ProcessContexts>>,
}

impl ProcessContexts {
    fn new() -> Self {
        Self {
            process: process::id(),
            contexts: Mutex::default(),
            of_forked_child: OnceLock::new(),
        }
    }

    fn of_this_process() -> &'static Self {
        let mut contexts = CONTEXTS.get_or_init(Self::new);
        while contexts.process != process::id() {
            contexts = contexts.of_forked_child.get_or_init(|| Box::new(Self::new()));
        }
        contexts
    }
}

/// A context, and a count of its used slots.
struct SharedContext {
    context: zmq::Context,
    used: Arc<()>,
}

impl SharedContext {
    fn new() -> Self {
        Self { context: zmq::Context::new(), used: Arc::new(()) }
    }

    fn has_free_slot(&self) -> bool {
        Arc::strong_count(&self.used) <= CONNECTIONS_PER_CONTEXT
    }

    fn slot(&self) -> ContextSlot {
        ContextSlot { context: self.context.clone(), _used: Arc::clone(&self.used) }
    }
}

/// Room for the sockets of one connection, which share one context.
pub(super) struct ContextSlot {
    context: zmq::Context,
    _used: Arc<()>,
}

impl ContextSlot {
    pub(super) fn socket(&self, kind: zmq::SocketType) -> zmq::Result<zmq::Socket> {
        self.context.socket(kind)
    }
}

/// Makes sockets in the first context with a free slot, or in a new context.
///
/// libzmq closes sockets in the background. So a context may be full although few of its slots are
/// used: when a daemon ends, all its clients replace their connections at once.
pub(super) fn create_sockets<T>(make: impl Fn(ContextSlot) -> zmq::Result<T>) -> Result<T> {
    let process = ProcessContexts::of_this_process();
    let mut contexts = process.contexts.lock().unwrap_or_else(PoisonError::into_inner);
    check_free_descriptors(CONNECTION_DESCRIPTORS)?;
    for context in contexts.iter().filter(|context| context.has_free_slot()) {
        match make(context.slot()) {
            // The context is full.
            Err(zmq::Error::EMFILE) => {}
            outcome => return outcome.map_err(socket_error),
        }
    }
    check_free_descriptors(CONTEXT_DESCRIPTORS)?;
    let context = SharedContext::new();
    // When this fails too, keep no further context.
    let sockets = make(context.slot()).map_err(socket_error)?;
    contexts.push(context);
    Ok(sockets)
}

fn check_free_descriptors(count: usize) -> Result<()> {
    let taken = || -> io::Result<()> {
        let (first, second) = UnixStream::pair()?;
        let rest: io::Result<Vec<_>> = (2..count).map(|_| first.try_clone()).collect();
        rest.map(|rest| drop((first, second, rest)))
    };
    taken().map_err(|_| Error::Transport { reason: SocketError::Descriptors })
}

pub(super) fn socket_error(error: zmq::Error) -> Error {
    let reason = if error == zmq::Error::EMFILE {
        SocketError::Descriptors
    } else {
        SocketError::Other { reason: error.message().to_owned() }
    };
    Error::Transport { reason }
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
            let connections: Result<Vec<_>> =
                (0..CONNECTIONS_PER_CONTEXT).map(|_| create_sockets(connect)).collect();
            assert_eq!(connections.map(|all| all.len()), Ok(CONNECTIONS_PER_CONTEXT));
        }
    }

    #[test]
    fn a_shortage_of_descriptors_is_noticed_before_libzmq_can_abort() {
        let error = check_free_descriptors(usize::MAX / 2).unwrap_err();
        assert_eq!(error, Error::Transport { reason: SocketError::Descriptors });
        assert!(error.to_string().contains("ulimit -n"), "{error}");
        assert_eq!(check_free_descriptors(2), Ok(()));
    }
}
