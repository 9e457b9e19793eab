//! One DEALER socket for one connection to the daemon.
//!
//! Each message has a number in its envelope, `[number, empty, body]`, and the daemon copies the
//! envelope into its reply. So several requests can be outstanding at once.
//!
//! The driver drops the socket when the connection is lost, although libzmq could reconnect it:
//! messages that are still in libzmq's queue would reach the next daemon. `ZMQ_IMMEDIATE` prevents
//! that, but it discards the replies that arrived just before the end, such as that to SHUTDOWN.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::debug;
use zmq::SocketEvent::{CONNECT_RETRIED, DISCONNECTED, HANDSHAKE_SUCCEEDED};

use super::context::{ContextSlot, create_sockets, socket_error};
use crate::error::Result;

/// In ms: longer than the driver keeps a socket that has failed.
const NO_RECONNECT: i32 = 60 * 60 * 1000;
/// In ms, for a TCP connection. Without it the system would retry for minutes with growing pauses
/// while a machine is off, and notice late that it is on again.
const CONNECT_TIMEOUT: i32 = 5_000;
/// In ms, for the ZMTP handshake.
const HANDSHAKE_TIMEOUT: i32 = 10_000;

/// What has happened on the connection.
#[derive(Debug)]
pub(super) enum ConnectionEvent {
    /// The daemon has completed the handshake and accepts requests.
    Up,
    /// A reply to the request of this number, with its first part and the number of its parts.
    Reply { number: u64, body: Vec<u8>, parts: usize },
    /// The connection failed or was lost, and the driver has received all its replies.
    Lost,
}

/// The socket of one connection, and the monitor that reports its state.
pub(super) struct DealerSocket {
    socket: zmq::Socket,
    monitor: zmq::Socket,
    is_up: bool,
    has_failed: bool,
    /// The last poll has shown an event of the monitor. Reading an empty monitor costs a system
    /// call, which would be one for each reply.
    has_monitor_event: bool,
    _slot: ContextSlot,
}

impl DealerSocket {
    /// Connects in the background. `endpoint` has no host name, which libzmq would resolve on the
    /// I/O thread of all clients.
    pub(super) fn open(endpoint: &str) -> Result<Self> {
        let dealer = create_sockets(|slot| {
            let socket = slot.socket(zmq::DEALER)?;
            socket.set_linger(0)?;
            socket.set_reconnect_ivl(NO_RECONNECT)?;
            socket.set_connect_timeout(CONNECT_TIMEOUT)?;
            socket.set_handshake_ivl(HANDSHAKE_TIMEOUT)?;
            socket.set_ipv6(endpoint.starts_with("tcp://["))?;
            // Monitor before connecting, so that no event is missed.
            let monitor = monitor(&slot, &socket)?;
            Ok(Self {
                socket,
                monitor,
                is_up: false,
                has_failed: false,
                has_monitor_event: false,
                _slot: slot,
            })
        })?;
        dealer.socket.connect(endpoint).map_err(socket_error)?;
        Ok(dealer)
    }

    /// What to poll: the socket, also for sending if `wants_to_send`, and the monitor.
    pub(super) fn poll_items(&self, wants_to_send: bool) -> [zmq::PollItem<'_>; 2] {
        let events = if wants_to_send { zmq::POLLIN | zmq::POLLOUT } else { zmq::POLLIN };
        [self.socket.as_poll_item(events), self.monitor.as_poll_item(zmq::POLLIN)]
    }

    /// The last poll has shown that the monitor has an event.
    pub(super) fn note_monitor_event(&mut self) {
        self.has_monitor_event = true;
    }

    /// The next event that has already happened.
    pub(super) fn next_event(&mut self) -> Option<ConnectionEvent> {
        // First the monitor: when it reports the end, the replies from before the end have arrived.
        if self.has_monitor_event && !self.has_failed && self.read_monitor() {
            return Some(ConnectionEvent::Up);
        }
        loop {
            match receive(&self.socket) {
                Ok(Some(message)) => {
                    if let Some(reply) = read(message) {
                        return Some(reply);
                    }
                }
                Ok(None) => return self.has_failed.then_some(ConnectionEvent::Lost),
                Err(error) => {
                    debug!(%error, "the socket failed");
                    self.has_failed = true;
                    return Some(ConnectionEvent::Lost);
                }
            }
        }
    }

    /// Whether the connection has failed: the next event says so.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Reads the events of the connection. True when it is up since then.
    fn read_monitor(&mut self) -> bool {
        loop {
            match receive(&self.monitor) {
                Ok(Some(event)) => {
                    // The first two bytes are the event's number, in native byte order.
                    let number = event.first().and_then(|event| event.first_chunk());
                    let number = number.map(|number| u16::from_ne_bytes(*number));
                    if number != Some(HANDSHAKE_SUCCEEDED.to_raw()) {
                        self.has_failed = true;
                        return false;
                    }
                    if !std::mem::replace(&mut self.is_up, true) {
                        return true;
                    }
                }
                Ok(None) => {
                    self.has_monitor_event = false;
                    return false;
                }
                Err(error) => {
                    debug!(%error, "the monitor failed");
                    self.has_failed = true;
                    return false;
                }
            }
        }
    }

    /// Sends a request to the connected daemon. False when the socket takes no more at present.
    pub(super) fn send(&mut self, number: u64, body: &[u8]) -> bool {
        let envelope = number.to_be_bytes();
        let frames: [(&[u8], i32); 3] = [(&envelope, zmq::SNDMORE), (&[], zmq::SNDMORE), (body, 0)];
        for (frame, more) in frames {
            loop {
                // ZeroMQ takes all frames of a message or not even the first one.
                match self.socket.send(frame, zmq::DONTWAIT | more) {
                    Ok(()) => break,
                    Err(zmq::Error::EINTR) => {}
                    Err(zmq::Error::EAGAIN) => return false,
                    Err(error) => {
                        debug!(%error, "the socket failed");
                        self.has_failed = true;
                        return false;
                    }
                }
            }
        }
        true
    }
}

impl Drop for DealerSocket {
    fn drop(&mut self) {
        stop_monitor(&self.socket);
    }
}

impl fmt::Debug for DealerSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DealerSocket")
            .field("is_up", &self.is_up)
            .field("has_failed", &self.has_failed)
            .finish_non_exhaustive()
    }
}

/// Makes the monitor of a socket, in the same context.
fn monitor(slot: &ContextSlot, socket: &zmq::Socket) -> zmq::Result<zmq::Socket> {
    let monitor = slot.socket(zmq::PAIR)?;
    monitor.set_linger(0)?;
    // With a limit, libzmq's I/O thread would block when the monitor is not read.
    monitor.set_rcvhwm(0)?;
    let endpoint = unique_endpoint();
    let events = [CONNECT_RETRIED, DISCONNECTED, HANDSHAKE_SUCCEEDED];
    let events = events.iter().fold(0, |events, event| events | event.to_raw());
    socket.monitor(&endpoint, events.into())?;
    if let Err(error) = monitor.connect(&endpoint) {
        stop_monitor(socket);
        return Err(error);
    }
    Ok(monitor)
}

/// Stops libzmq from writing to the monitor of `socket`. Its only I/O thread would block for ever
/// on an event for a closed monitor.
fn stop_monitor(socket: &zmq::Socket) {
    // An error does not matter: libzmq has stopped the old monitor before it fails.
    let _ = socket.monitor(&unique_endpoint(), 0);
}

fn unique_endpoint() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("inproc://cortex-client-monitor-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Receives a whole message, if there is one. ZeroMQ delivers all frames of a message or none.
fn receive(socket: &zmq::Socket) -> zmq::Result<Option<Vec<Vec<u8>>>> {
    let mut frames = Vec::with_capacity(3);
    loop {
        match socket.recv_msg(zmq::DONTWAIT) {
            Ok(frame) => {
                let is_last = !frame.get_more();
                frames.push(frame.to_vec());
                if is_last {
                    return Ok(Some(frames));
                }
            }
            Err(zmq::Error::EINTR) => {}
            Err(zmq::Error::EAGAIN) if frames.is_empty() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Splits a message into its envelope and the reply.
fn read(message: Vec<Vec<u8>>) -> Option<ConnectionEvent> {
    let count = message.len();
    let mut frames = message.into_iter();
    let number = frames.next().and_then(|number| number.try_into().ok());
    let has_delimiter = frames.next().is_some_and(|delimiter| delimiter.is_empty());
    match (number, frames.next()) {
        (Some(number), Some(body)) if has_delimiter => {
            let number = u64::from_be_bytes(number);
            Some(ConnectionEvent::Reply { number, body, parts: count - 2 })
        }
        _ => {
            debug!(frames = count, "a message that is not a reply");
            None
        }
    }
}
