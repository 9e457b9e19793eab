//! One DEALER socket for one connection to the daemon.
//!
//! Each message has its number in the envelope, `[number, empty, body]`, and a daemon sends the
//! envelope back with its reply. So several requests can be under way at once.
//!
//! After the connection is lost the socket is of no use any more, although libzmq could reconnect
//! it: what it had not sent by then would reach the next daemon. `ZMQ_IMMEDIATE`, which prevents
//! that, throws away the replies that came just before the end, such as the one to SHUTDOWN.
//!
//! # Waiting for a socket
//!
//! A socket's descriptor becomes readable once, when the first news comes in since the socket was
//! last looked at, and every look, also a send or a receive, may take that signal away. So the
//! last thing before waiting must be a look that finds nothing to do, and the readiness that tokio
//! remembers is cleared before that look, not after it.

use std::fmt;
use std::io;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;
use tracing::debug;
use zmq::SocketEvent::{CONNECT_RETRIED, DISCONNECTED, HANDSHAKE_SUCCEEDED};

use crate::connection::{configure, connect, monitor, stop_monitor};
use crate::context::{ContextSlot, create_sockets};
use crate::error::{Error, Result};
use crate::reply::RawReply;

/// In ms: longer than a link that has failed is kept.
const NO_RECONNECT: i32 = 60 * 60 * 1000;
/// In ms, for the daemon to say that it is one.
const HANDSHAKE_TIMEOUT: i32 = 10_000;

/// What a look at the link shows.
#[derive(Debug)]
pub(super) enum SocketState {
    /// A reply to the request of this number.
    Reply { number: u64, reply: RawReply },
    /// A message that is no reply.
    Malformed,
    /// A request can be sent.
    Writable,
    /// Nothing can be done now.
    Idle,
    /// The connection did not come about or is gone, and all replies of it have been seen.
    Lost,
}

/// A connection that comes about, lasts, and ends.
pub(super) struct DealerSocket {
    socket: AsyncFd<zmq::Socket>,
    monitor: AsyncFd<zmq::Socket>,
    up_since: Option<Instant>,
    has_failed: bool,
    _slot: ContextSlot,
}

impl DealerSocket {
    /// Connects in the background. To be called on a runtime.
    pub(super) fn open(address: &str) -> Result<Self> {
        let transport = |source| Error::Transport { address: address.to_owned(), source };
        let events = [CONNECT_RETRIED, DISCONNECTED, HANDSHAKE_SUCCEEDED];
        let (socket, monitor, slot) = create_sockets(|slot| {
            let socket = slot.socket(zmq::DEALER)?;
            configure(&socket, address)?;
            set_times(&socket)?;
            let monitor = monitor(&slot, &socket, &events)?;
            Ok((socket, monitor, slot))
        })
        .map_err(transport)?;
        let dealer = Self {
            socket: asynchronous(socket, address)?,
            monitor: asynchronous(monitor, address)?,
            up_since: None,
            has_failed: false,
            _slot: slot,
        };
        connect(dealer.socket.get_ref(), address)?;
        Ok(dealer)
    }

    /// Since when the daemon is connected, if it ever was.
    pub(super) fn up_since(&self) -> Option<Instant> {
        self.up_since
    }

    /// Takes note of what has become of the connection.
    ///
    /// To be called before [`next_state`](Self::next_state): replies from before the end are there when the
    /// end is told.
    pub(super) fn read_monitor(&mut self) {
        loop {
            match self.monitor.get_ref().recv_multipart(zmq::DONTWAIT) {
                Ok(event) => self.apply_monitor_event(&event),
                Err(zmq::Error::EAGAIN) => return,
                Err(zmq::Error::EINTR) => {}
                Err(error) => return self.fail(error),
            }
        }
    }

    /// The event's number is the first two bytes, in this machine's order.
    fn apply_monitor_event(&mut self, event: &[Vec<u8>]) {
        let Some(number) = event.first().and_then(|event| event.first_chunk()) else { return };
        if u16::from_ne_bytes(*number) == HANDSHAKE_SUCCEEDED.to_raw() {
            self.up_since = Some(Instant::now());
        } else {
            self.has_failed = true;
        }
    }

    fn fail(&mut self, error: zmq::Error) {
        debug!(%error, "the socket failed");
        self.has_failed = true;
    }

    /// Whether a [`next_state`](Self::next_state) would receive a message. It must follow before the next wait.
    pub(super) fn has_message(&self) -> bool {
        self.socket.get_ref().get_events().is_ok_and(|events| events.contains(zmq::POLLIN))
    }

    /// Receives a message, or tells what else can be done.
    pub(super) fn next_state(&mut self) -> SocketState {
        let events = match self.socket.get_ref().get_events() {
            Ok(events) => events,
            Err(error) => {
                self.fail(error);
                return SocketState::Lost;
            }
        };
        if events.contains(zmq::POLLIN) {
            match self.socket.get_ref().recv_multipart(zmq::DONTWAIT) {
                Ok(message) => return read(message),
                Err(error) => self.fail(error),
            }
        }
        if self.has_failed {
            SocketState::Lost
        } else if self.up_since.is_some() && events.contains(zmq::POLLOUT) {
            SocketState::Writable
        } else {
            SocketState::Idle
        }
    }

    /// Sends a request, after [`next_state`](Self::next_state) has seen that there is room.
    pub(super) fn send(&mut self, number: u64, body: Vec<u8>) {
        let message = [number.to_be_bytes().to_vec(), Vec::new(), body];
        if let Err(error) = self.socket.get_ref().send_multipart(message, zmq::DONTWAIT) {
            self.fail(error);
        }
    }

    /// Ready when a look may show something new.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut readiness = Poll::Pending;
        for socket in [&mut self.socket, &mut self.monitor] {
            if let Poll::Ready(guard) = socket.poll_read_ready_mut(cx) {
                guard?.clear_ready();
                readiness = Poll::Ready(Ok(()));
            }
        }
        readiness
    }
}

impl Drop for DealerSocket {
    fn drop(&mut self) {
        stop_monitor(self.socket.get_ref());
    }
}

impl fmt::Debug for DealerSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DealerSocket")
            .field("up_since", &self.up_since)
            .field("has_failed", &self.has_failed)
            .finish_non_exhaustive()
    }
}

/// Hands the socket's descriptor to the runtime's I/O driver.
#[expect(deprecated, reason = "the other way is unsafe; a socket's descriptor lasts as long as it")]
fn asynchronous(socket: zmq::Socket, address: &str) -> Result<AsyncFd<zmq::Socket>> {
    AsyncFd::with_interest(socket, Interest::READABLE).map_err(|error| {
        let errno = error.raw_os_error();
        errno.map_or(Error::NoRuntime, |errno| Error::Transport {
            address: address.to_owned(),
            source: zmq::Error::from_raw(errno),
        })
    })
}

fn set_times(socket: &zmq::Socket) -> zmq::Result<()> {
    socket.set_reconnect_ivl(NO_RECONNECT)?;
    socket.set_handshake_ivl(HANDSHAKE_TIMEOUT)
}

/// Takes a reply out of its envelope.
fn read(message: Vec<Vec<u8>>) -> SocketState {
    let count = message.len();
    let mut frames = message.into_iter();
    let number = frames.next().and_then(|number| number.try_into().ok());
    let has_delimiter = frames.next().is_some_and(|delimiter| delimiter.is_empty());
    match (number, frames.next()) {
        (Some(number), Some(body)) if has_delimiter => SocketState::Reply {
            number: u64::from_be_bytes(number),
            reply: RawReply { body, parts: count - 2 },
        },
        _ => {
            debug!(frames = count, "a message that is no reply");
            SocketState::Malformed
        }
    }
}
