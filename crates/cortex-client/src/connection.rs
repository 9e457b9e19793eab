//! A blocking connection to the daemon, which carries out an [`Exchange`] on a ZeroMQ REQ socket.

mod monitored_socket;
mod waker;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cortex_proto::DiscoveryRequest;
use tracing::debug;

use crate::context::{ContextSlot, create_sockets};
use crate::error::{Error, Result};
use crate::protocol::reply::{RawReply, Reply};
use crate::protocol::retry::{Exchange, ExchangeAction, Query, RetryPolicy, poll_millis};

pub(crate) use monitored_socket::{ConnectionEvent, MonitoredSocket};
pub(crate) use waker::{WakeSource, Waker};

/// The first pause before libzmq reconnects, in ms.
const RECONNECT: i32 = 50;
/// The longest pause before libzmq reconnects, in ms.
const MAX_RECONNECT: i32 = 250;
/// In ms, for a TCP connection. Without it the system would retry for minutes with growing pauses
/// while a machine is off, and notice late that it is on again.
const CONNECT_TIMEOUT: i32 = 5_000;

/// A connection for one request at a time.
pub(crate) struct Connection {
    address: String,
    /// `None` after a failure: the next call opens a new socket.
    req_socket: Option<ReqSocket>,
}

impl Connection {
    /// Connects in the background: the daemon may start later.
    pub(crate) fn open(address: String) -> Result<Self> {
        let req_socket = Some(ReqSocket::open(&address, OnLoss::Ignore)?);
        Ok(Self { address, req_socket })
    }

    /// The daemon's address.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request and waits for its reply. It notices a lost connection only at the deadline.
    pub(crate) fn call(
        &mut self,
        request: &DiscoveryRequest,
        policy: RetryPolicy,
    ) -> Result<Reply> {
        debug!(address = self.address, command = %request.command, "request");
        let mut call = Call::new(request.to_bytes(), policy, OnLoss::Ignore);
        loop {
            if let CallOutcome::Answered(reply) = self.advance(&mut call, None)? {
                return Ok(reply);
            }
        }
    }

    /// Continues a call until it has an outcome, but not beyond `until`. No other call may start in
    /// between. A call that ends without a whole reply closes the socket: a REQ socket that waits
    /// for a reply can do nothing else, and a late reply is lost with it.
    ///
    /// # Errors
    /// [`Error::NoAnswer`], [`Error::Unreadable`], [`Error::InvalidAddress`] and
    /// [`Error::Transport`]; each ends the call.
    pub(crate) fn advance(
        &mut self,
        call: &mut Call,
        until: Option<Instant>,
    ) -> Result<CallOutcome> {
        let raw = match self.exchange(call, until) {
            Ok(Progress::Received(raw)) => raw,
            Ok(Progress::Lost) => {
                self.req_socket = None;
                return Ok(CallOutcome::Lost);
            }
            Ok(Progress::Sent | Progress::None) => return Ok(CallOutcome::Pending),
            Err(error) => {
                self.req_socket = None;
                return Err(error);
            }
        };
        let reply = Reply::read(&raw, call.exchange.times_sent());
        let attempt = call.exchange.attempt();
        debug!(attempt, bytes = raw.body.len(), readable = reply.is_ok(), "reply");
        reply.map(CallOutcome::Answered)
    }

    /// Stops monitoring the connection and frees the descriptors of the monitor.
    pub(crate) fn stop_monitor(&mut self) {
        if let Some(req_socket) = &mut self.req_socket {
            req_socket.stop_monitor();
        }
    }

    /// Returns with a received message, with [`Progress::Lost`] when the call reports losses, or
    /// with [`Progress::None`] at `until`.
    fn exchange(&mut self, call: &mut Call, until: Option<Instant>) -> Result<Progress> {
        let exchange = &mut call.exchange;
        // Accept an answer that arrived between two calls, even after its deadline.
        if exchange.is_sent()
            && let Some(req_socket) = &self.req_socket
            && let Ok(raw) = receive(&req_socket.socket)
        {
            return Ok(Progress::Received(raw));
        }
        loop {
            let now = Instant::now();
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(now));
            let next = match exchange.next_action(now) {
                ExchangeAction::GiveUp => {
                    let policy = exchange.policy();
                    debug!(attempts = policy.attempts, "no answer");
                    return Err(no_answer(&self.address, policy.total(), policy.attempts));
                }
                ExchangeAction::Reconnect => {
                    debug!(attempt = exchange.attempt(), "sending again");
                    self.req_socket = None;
                    continue;
                }
                ExchangeAction::Pause { .. } if left.is_zero() => return Ok(Progress::None),
                ExchangeAction::Pause { within } => {
                    // An open socket would reconnect during the pause, and more often.
                    self.req_socket = None;
                    thread::sleep(within.min(left));
                    continue;
                }
                ExchangeAction::Send { within } => {
                    ExchangeAction::Send { within: within.min(left) }
                }
                ExchangeAction::Receive { within } => {
                    ExchangeAction::Receive { within: within.min(left) }
                }
            };
            let req_socket = match self.req_socket.take() {
                Some(req_socket) => req_socket,
                None => ReqSocket::open(&self.address, call.on_loss)?,
            };
            let req_socket = self.req_socket.insert(req_socket);
            if call.on_loss != OnLoss::Ignore {
                req_socket.start_monitor();
            }
            match req_socket.step(next, &call.body) {
                Ok(Progress::Sent) => exchange.sent(),
                Ok(received @ Progress::Received(_)) => return Ok(received),
                Ok(Progress::Lost) => {
                    debug!("the connection is lost");
                    call.was_lost = true;
                    if call.on_loss == OnLoss::Report {
                        return Ok(Progress::Lost);
                    }
                    exchange.lost(Instant::now());
                }
                // Everything that needs no waiting is done.
                Ok(Progress::None) if left.is_zero() => return Ok(Progress::None),
                // No progress yet, or a signal arrived: the deadline decides.
                Ok(Progress::None) | Err(zmq::Error::EINTR) => {}
                Err(source) => {
                    debug!(%source, "the socket failed");
                    return Err(Error::Transport { address: self.address.clone(), source });
                }
            }
        }
    }
}

/// What to do when the connection is lost while an answer is outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnLoss {
    /// Nothing: the request ends at its deadline.
    Ignore,
    /// Send the request again. Not for a SHUTDOWN.
    Resend,
    /// The call is over with [`CallOutcome::Lost`], also when the connection was lost before it.
    Report,
}

/// A request in progress.
#[derive(Debug)]
pub(crate) struct Call {
    body: Vec<u8>,
    exchange: Exchange,
    on_loss: OnLoss,
    was_lost: bool,
}

impl Call {
    pub(crate) fn new(body: Vec<u8>, policy: RetryPolicy, on_loss: OnLoss) -> Self {
        let exchange = Exchange::start(policy, Instant::now());
        Self { body, exchange, on_loss, was_lost: false }
    }

    /// The call of a wait's or a watch's query.
    pub(crate) fn of(query: Query) -> Self {
        debug!(within = ?query.timeout, may_park = query.may_park, "query");
        let on_loss = if query.may_park { OnLoss::Report } else { OnLoss::Resend };
        let policy = RetryPolicy { timeout: query.timeout, attempts: 1 };
        Self::new(query.body, policy, on_loss)
    }

    /// Whether the connection was lost during the call.
    pub(crate) fn was_lost(&self) -> bool {
        self.was_lost
    }
}

/// The outcome of a step of a call.
#[derive(Debug)]
pub(crate) enum CallOutcome {
    Answered(Reply),
    /// The connection was lost, and the call is over.
    Lost,
    /// The caller's time is over, but the call continues.
    Pending,
}

/// The error of a request without an answer.
pub(crate) fn no_answer(address: &str, waited: Duration, attempts: u32) -> Error {
    Error::NoAnswer { address: address.to_owned(), waited, attempts }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The result of one step of an exchange.
enum Progress {
    Sent,
    Received(RawReply),
    Lost,
    None,
}

/// A REQ socket, and the monitor that reports when its connection is lost.
struct ReqSocket {
    socket: zmq::Socket,
    monitor: Option<zmq::Socket>,
    slot: ContextSlot,
}

impl ReqSocket {
    fn open(address: &str, on_loss: OnLoss) -> Result<Self> {
        let monitored = (on_loss != OnLoss::Ignore)
            .then(|| Self::prepare(address, &[zmq::SocketEvent::DISCONNECTED]));
        let req_socket = match monitored {
            Some(Ok(req_socket)) => req_socket,
            // Without a monitor the socket still works.
            Some(Err(_)) | None => Self::prepare(address, &[])?,
        };
        req_socket.connect(address)?;
        Ok(req_socket)
    }

    /// Makes an unconnected socket, with a monitor when `events` are given.
    fn prepare(address: &str, events: &[zmq::SocketEvent]) -> Result<Self> {
        let made = create_sockets(|slot| {
            let socket = slot.socket(zmq::REQ)?;
            configure(&socket, address)?;
            let mut req_socket = Self { socket, monitor: None, slot };
            if !events.is_empty() {
                req_socket.monitor = Some(monitor(&req_socket.slot, &req_socket.socket, events)?);
            }
            Ok(req_socket)
        });
        made.map_err(|source| Error::Transport { address: address.to_owned(), source })
    }

    fn connect(&self, address: &str) -> Result<()> {
        connect(&self.socket, address)
    }

    /// Each monitor costs descriptors, so a socket has one only while a call needs it. When no
    /// descriptors are left, the call notices a lost connection at its deadline.
    fn start_monitor(&mut self) {
        if self.monitor.is_none() {
            match monitor(&self.slot, &self.socket, &[zmq::SocketEvent::DISCONNECTED]) {
                Ok(monitor) => self.monitor = Some(monitor),
                Err(source) => debug!(%source, "the connection cannot be monitored"),
            }
        }
    }

    fn stop_monitor(&mut self) {
        if let Some(monitor) = self.monitor.take() {
            stop_monitor(&self.socket);
            drop(monitor);
        }
    }

    /// Carries out `next` once.
    fn step(&self, next: ExchangeAction, body: &[u8]) -> zmq::Result<Progress> {
        match next {
            ExchangeAction::Send { within } => {
                if self.take_disconnects()? {
                    return Ok(Progress::Lost);
                }
                match self.socket.send(body, zmq::DONTWAIT) {
                    Ok(()) => Ok(Progress::Sent),
                    Err(zmq::Error::EAGAIN) => {
                        self.socket.poll(zmq::POLLOUT, poll_millis(within)).map(|_| Progress::None)
                    }
                    Err(error) => Err(error),
                }
            }
            ExchangeAction::Receive { within } => {
                self.poll(within)?;
                // A reply that arrived before the connection was lost counts.
                match receive(&self.socket) {
                    Ok(raw) => Ok(Progress::Received(raw)),
                    Err(zmq::Error::EAGAIN) if self.take_disconnects()? => Ok(Progress::Lost),
                    Err(zmq::Error::EAGAIN) => Ok(Progress::None),
                    Err(error) => Err(error),
                }
            }
            ExchangeAction::Pause { .. } | ExchangeAction::Reconnect | ExchangeAction::GiveUp => {
                Ok(Progress::None)
            }
        }
    }

    fn poll(&self, within: Duration) -> zmq::Result<i32> {
        let within = poll_millis(within);
        let socket = self.socket.as_poll_item(zmq::POLLIN);
        match &self.monitor {
            Some(monitor) => zmq::poll(&mut [socket, monitor.as_poll_item(zmq::POLLIN)], within),
            None => zmq::poll(&mut [socket], within),
        }
    }

    /// Reads all events from the monitor, which has only one kind. True when it had any.
    fn take_disconnects(&self) -> zmq::Result<bool> {
        let Some(monitor) = &self.monitor else { return Ok(false) };
        let mut is_lost = false;
        loop {
            match receive(monitor) {
                Ok(_) => is_lost = true,
                Err(zmq::Error::EINTR) => {}
                Err(zmq::Error::EAGAIN) => return Ok(is_lost),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for ReqSocket {
    fn drop(&mut self) {
        self.stop_monitor();
    }
}

/// The options of all sockets that connect to a daemon.
pub(crate) fn configure(socket: &zmq::Socket, address: &str) -> zmq::Result<()> {
    socket.set_linger(0)?;
    socket.set_reconnect_ivl(RECONNECT)?;
    socket.set_reconnect_ivl_max(MAX_RECONNECT)?;
    socket.set_connect_timeout(CONNECT_TIMEOUT)?;
    // Only for IPv6 literals: with this option ZeroMQ tries only the IPv6 address of a host name.
    socket.set_ipv6(address.starts_with("tcp://["))
}

pub(crate) fn connect(socket: &zmq::Socket, address: &str) -> Result<()> {
    let connected =
        if address.contains('\0') { Err(zmq::Error::EINVAL) } else { socket.connect(address) };
    connected.map_err(|source| Error::InvalidAddress { address: address.to_owned(), source })
}

/// Makes a monitor that receives these events of `socket`, in the same context. Call
/// [`stop_monitor`] before you drop it.
pub(crate) fn monitor(
    slot: &ContextSlot,
    socket: &zmq::Socket,
    events: &[zmq::SocketEvent],
) -> zmq::Result<zmq::Socket> {
    let monitor = slot.socket(zmq::PAIR)?;
    monitor.set_linger(0)?;
    // With a limit, libzmq's I/O thread would block when the monitor is not read.
    monitor.set_rcvhwm(0)?;
    let endpoint = unique_endpoint();
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
pub(crate) fn stop_monitor(socket: &zmq::Socket) {
    // An error does not matter: libzmq has stopped the old monitor before it fails.
    let _ = socket.monitor(&unique_endpoint(), 0);
}

fn unique_endpoint() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("inproc://cortex-client-monitor-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Receives a whole message. ZeroMQ delivers all parts of a message or none, so only the first
/// receive can find nothing.
fn receive(socket: &zmq::Socket) -> zmq::Result<RawReply> {
    let body = socket.recv_bytes(zmq::DONTWAIT)?;
    let mut parts = 1;
    while socket.get_rcvmore()? {
        match socket.recv_bytes(zmq::DONTWAIT) {
            Ok(_) => parts += 1,
            Err(zmq::Error::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(RawReply { body, parts })
}
