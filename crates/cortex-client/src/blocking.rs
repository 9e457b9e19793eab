//! The blocking client: carries out on a ZeroMQ REQ socket what [`exchange`] says.

use std::fmt;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use cortex_proto::{DiscoveryRequest, TopicInfo};
use tracing::debug;

use crate::builder::DiscoveryClientBuilder;
use crate::error::{Error, Result};
use crate::exchange::{self, Exchange, Plan, poll_millis};
use crate::reply::{RawReply, Reply};
use crate::wait::{self, Wait};

/// One context for the whole process, which is never terminated: termination can wait for its I/O
/// thread, and that one for the resolver. So neither dropping a client nor ending the process can
/// hang.
static CONTEXT: LazyLock<zmq::Context> = LazyLock::new(zmq::Context::new);

/// A client of the discovery daemon, for one thread at a time.
///
/// It may be sent to another thread. Dropping it closes the connection at once.
pub struct DiscoveryClient {
    address: String,
    plan: Plan,
    poll_interval: Duration,
    /// `None` after a failure: the next call starts on a fresh connection.
    socket: Option<zmq::Socket>,
}

impl DiscoveryClient {
    /// A client of the daemon at [`DEFAULT_DISCOVERY_ADDRESS`](cortex_proto::DEFAULT_DISCOVERY_ADDRESS),
    /// with the other defaults of [`builder`](Self::builder).
    ///
    /// # Errors
    /// As [`DiscoveryClientBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// A client of the daemon at `address`, with the other defaults of [`builder`](Self::builder).
    ///
    /// # Errors
    /// As [`DiscoveryClientBuilder::build`].
    pub fn connect(address: impl Into<String>) -> Result<Self> {
        Self::builder().address(address).build()
    }

    /// Settings for a client: the default address, 5 s for the only attempt of a call, 500 ms
    /// between the lookups of a wait.
    pub fn builder() -> DiscoveryClientBuilder {
        DiscoveryClientBuilder::default()
    }

    pub(crate) fn start(address: String, plan: Plan, poll_interval: Duration) -> Result<Self> {
        let socket = Some(open(&address)?);
        Ok(Self { address, plan, poll_interval, socket })
    }

    /// Where this client expects the daemon.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Makes a topic known. The same node may do so again, and replaces what it said before.
    ///
    /// # Errors
    /// [`Error::AlreadyRegistered`] when another node has the topic; [`Error::Refused`],
    /// [`Error::NoAnswer`], [`Error::Unreadable`], [`Error::Transport`].
    pub fn register_topic(&mut self, info: &TopicInfo) -> Result<()> {
        let topic = info.name.as_str();
        self.call(&DiscoveryRequest::register(info.clone()), self.plan)?.registered(topic)
    }

    /// Makes a topic unknown. When an attempt got no answer and the next one hears that there is
    /// no such topic, that is success: the first has done it.
    ///
    /// # Errors
    /// [`Error::NoSuchTopic`]; [`Error::Refused`], [`Error::NoAnswer`], [`Error::Unreadable`],
    /// [`Error::Transport`].
    pub fn unregister_topic(&mut self, topic: &str) -> Result<()> {
        self.call(&DiscoveryRequest::unregister(topic), self.plan)?.unregistered(topic)
    }

    /// Asks for one topic.
    ///
    /// # Errors
    /// [`Error::NoSuchTopic`]; [`Error::Refused`], [`Error::NoAnswer`], [`Error::Unreadable`],
    /// [`Error::Transport`].
    pub fn lookup_topic(&mut self, topic: &str) -> Result<TopicInfo> {
        self.lookup(topic, self.plan)
    }

    /// Waits for a topic to be registered, at most `timeout`
    /// ([`DEFAULT_WAIT_TIMEOUT`](crate::DEFAULT_WAIT_TIMEOUT) is a sensible one), by asking for it
    /// at each poll interval. A daemon that is not there yet is waited for as well.
    ///
    /// # Errors
    /// [`Error::WaitTimedOut`] when the daemon answers but the topic did not appear;
    /// [`Error::NoAnswer`] when there was no daemon to the end; [`Error::Refused`],
    /// [`Error::Unreadable`] and [`Error::Transport`] at once.
    pub fn wait_for_topic(&mut self, topic: &str, timeout: Duration) -> Result<TopicInfo> {
        let mut wait = Wait::start(timeout, self.poll_interval, self.plan.timeout, Instant::now());
        let mut lookups: u32 = 0;
        loop {
            match wait.next(Instant::now()) {
                wait::Next::Lookup { timeout } => {
                    lookups = lookups.saturating_add(1);
                    match self.lookup(topic, Plan { timeout, attempts: 1 }) {
                        Err(Error::NoSuchTopic { .. }) => wait.absent(),
                        Err(Error::NoAnswer { .. }) => wait.unanswered(),
                        found_or_failed => return found_or_failed,
                    }
                }
                wait::Next::Pause(pause) => thread::sleep(pause),
                wait::Next::Over { heard: true } => {
                    return Err(Error::WaitTimedOut { topic: topic.to_owned(), waited: timeout });
                }
                wait::Next::Over { heard: false } => return Err(self.no_answer(timeout, lookups)),
            }
        }
    }

    /// Asks for all topics, in the order of their first registration.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::NoAnswer`], [`Error::Unreadable`], [`Error::Transport`].
    pub fn list_topics(&mut self) -> Result<Vec<TopicInfo>> {
        self.call(&DiscoveryRequest::list(), self.plan)?.listed()
    }

    /// Asks whether a daemon is there.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] when none is; [`Error::Refused`], [`Error::Unreadable`],
    /// [`Error::Transport`].
    pub fn ping(&mut self) -> Result<()> {
        self.call(&DiscoveryRequest::ping(), self.plan)?.done()
    }

    /// Asks the daemon to end. It may still be there for a moment after it agreed.
    ///
    /// # Errors
    /// [`Error::Refused`] when this user may not; [`Error::NoAnswer`], also when the daemon ended
    /// without its answer arriving; [`Error::Unreadable`], [`Error::Transport`].
    pub fn shutdown(&mut self) -> Result<()> {
        self.call(&DiscoveryRequest::shutdown(), self.plan)?.done()
    }

    fn lookup(&mut self, topic: &str, plan: Plan) -> Result<TopicInfo> {
        self.call(&DiscoveryRequest::lookup(topic), plan)?.found(topic)
    }

    /// One request and its reply. Unless a whole reply was received, the socket is closed: a REQ
    /// socket that waits for a reply can do nothing else, and a late reply is lost with it.
    fn call(&mut self, request: &DiscoveryRequest, plan: Plan) -> Result<Reply> {
        debug!(address = self.address, command = %request.command, "request");
        let body = request.to_bytes();
        let mut exchange = Exchange::start(plan, Instant::now());
        let raw = self.exchange(&body, &mut exchange).inspect_err(|_| self.socket = None)?;
        let attempt = exchange.attempt();
        let reply = Reply::read(&raw, attempt);
        debug!(attempt, bytes = raw.body.len(), readable = reply.is_ok(), "reply");
        reply
    }

    fn exchange(&mut self, body: &[u8], exchange: &mut Exchange) -> Result<RawReply> {
        loop {
            let next = exchange.next(Instant::now());
            if next == exchange::Next::Reconnect {
                debug!(attempt = exchange.attempt(), "no answer: sending again");
                self.socket = None;
                continue;
            }
            if next == exchange::Next::GiveUp {
                let plan = exchange.plan();
                debug!(attempts = plan.attempts, "no answer");
                return Err(self.no_answer(plan.total(), plan.attempts));
            }
            let socket = match self.socket.take() {
                Some(socket) => socket,
                None => open(&self.address)?,
            };
            let socket = self.socket.insert(socket);
            match step(socket, next, body) {
                Ok(Progress::Sent) => exchange.sent(),
                Ok(Progress::Received(raw)) => return Ok(raw),
                // Nothing yet, or a signal came: the deadline decides.
                Ok(Progress::Nothing) | Err(zmq::Error::EINTR) => {}
                Err(source) => {
                    debug!(%source, "the socket failed");
                    return Err(Error::Transport { address: self.address.clone(), source });
                }
            }
        }
    }

    fn no_answer(&self, waited: Duration, attempts: u32) -> Error {
        Error::NoAnswer { address: self.address.clone(), waited, attempts }
    }
}

impl fmt::Debug for DiscoveryClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryClient")
            .field("address", &self.address)
            .field("plan", &self.plan)
            .field("poll_interval", &self.poll_interval)
            .finish_non_exhaustive()
    }
}

enum Progress {
    Sent,
    Received(RawReply),
    Nothing,
}

/// Does what `next` says, once.
fn step(socket: &zmq::Socket, next: exchange::Next, body: &[u8]) -> zmq::Result<Progress> {
    match next {
        exchange::Next::Send { within } => match socket.send(body, zmq::DONTWAIT) {
            Ok(()) => Ok(Progress::Sent),
            Err(zmq::Error::EAGAIN) => {
                socket.poll(zmq::POLLOUT, poll_millis(within)).map(|_| Progress::Nothing)
            }
            Err(error) => Err(error),
        },
        exchange::Next::Receive { within } => {
            if socket.poll(zmq::POLLIN, poll_millis(within))? == 0 {
                return Ok(Progress::Nothing);
            }
            match receive(socket) {
                Ok(raw) => Ok(Progress::Received(raw)),
                Err(zmq::Error::EAGAIN) => Ok(Progress::Nothing),
                Err(error) => Err(error),
            }
        }
        exchange::Next::Reconnect | exchange::Next::GiveUp => Ok(Progress::Nothing),
    }
}

/// Receives a whole message. ZeroMQ hands over all parts of a message or none, so only the first
/// can be missing.
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

fn open(address: &str) -> Result<zmq::Socket> {
    let transport = |source| Error::Transport { address: address.to_owned(), source };
    let socket = CONTEXT.socket(zmq::REQ).map_err(transport)?;
    socket.set_linger(0).map_err(transport)?;
    // Only where it must be: with it ZeroMQ would try no other than a name's IPv6 address.
    socket.set_ipv6(address.starts_with("tcp://[")).map_err(transport)?;
    let connected =
        if address.contains('\0') { Err(zmq::Error::EINVAL) } else { socket.connect(address) };
    connected.map_err(|source| Error::Address { address: address.to_owned(), source })?;
    Ok(socket)
}
