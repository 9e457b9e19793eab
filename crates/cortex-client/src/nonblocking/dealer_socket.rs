//! One DEALER socket for one connection to the daemon.
//!
//! Each message has a number in its envelope, `[number, empty, body]`, and the daemon copies the
//! envelope into its reply. So several requests can be outstanding at once.
//!
//! The driver discards the socket when the connection is lost, although libzmq could reconnect it:
//! messages that are still in libzmq's queue would reach the next daemon. `ZMQ_IMMEDIATE` prevents
//! that, but it discards the replies that arrived just before the end, such as that to SHUTDOWN.
//!
//! # Waiting for a socket
//!
//! The descriptor of a ZeroMQ socket is edge-triggered: it becomes readable once, at the first
//! event after the last use of the socket. Each use, also a send or a receive, may consume that
//! signal. So the last step before waiting must be a [`next_state`](DealerSocket::next_state) that
//! is idle. Tokio's remembered readiness must be cleared before that step, not after it.

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
use crate::protocol::reply::RawReply;

/// In ms: longer than the driver keeps a failed socket.
const NO_RECONNECT: i32 = 60 * 60 * 1000;
/// In ms, for the ZMTP handshake.
const HANDSHAKE_TIMEOUT: i32 = 10_000;

/// What the driver can do with the socket.
#[derive(Debug)]
pub(super) enum SocketState {
    /// The socket has received a reply to the request of this number.
    Reply { number: u64, reply: RawReply },
    /// The socket has received a message that is not a reply.
    Malformed,
    /// The socket can send a request.
    Writable,
    /// The socket can neither send nor receive now.
    Idle,
    /// The connection failed or was lost, and all its replies have been received.
    Lost,
}

/// The socket of one connection. It does not reconnect.
pub(super) struct DealerSocket {
    socket: AsyncFd<zmq::Socket>,
    monitor: AsyncFd<zmq::Socket>,
    up_since: Option<Instant>,
    has_failed: bool,
    _slot: ContextSlot,
}

impl DealerSocket {
    /// Connects in the background. Call it on a runtime.
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

    /// When the daemon completed the handshake, if it has.
    pub(super) fn up_since(&self) -> Option<Instant> {
        self.up_since
    }

    /// Reads the events of the connection.
    ///
    /// Call it before [`next_state`](Self::next_state): when the monitor reports the end, the
    /// replies from before the end have arrived.
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

    /// The first two bytes are the event's number, in native byte order.
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

    /// Whether a [`next_state`](Self::next_state) would receive a message. Call that before the
    /// next wait.
    pub(super) fn has_message(&self) -> bool {
        self.socket.get_ref().get_events().is_ok_and(|events| events.contains(zmq::POLLIN))
    }

    /// Receives a message, or gives the state of the socket.
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

    /// Sends a request, after [`next_state`](Self::next_state) was `Writable`.
    pub(super) fn send(&mut self, number: u64, body: Vec<u8>) {
        let message = [number.to_be_bytes().to_vec(), Vec::new(), body];
        if let Err(error) = self.socket.get_ref().send_multipart(message, zmq::DONTWAIT) {
            self.fail(error);
        }
    }

    /// Ready when [`next_state`](Self::next_state) may have changed.
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
#[expect(deprecated, reason = "the alternative is unsafe; the socket keeps its descriptor open")]
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

/// Splits a message into its envelope and the reply.
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
            debug!(frames = count, "a message that is not a reply");
            SocketState::Malformed
        }
    }
}
