//! The blocking client: one request at a time on a [`Connection`].

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use cortex_proto::{DiscoveryRequest, TopicInfo};

use crate::builder::DiscoveryClientBuilder;
use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::exchange::Plan;
use crate::wait::{self, Wait};

/// A client of the discovery daemon, for one thread at a time.
///
/// It may be sent to another thread. Dropping it closes the connection at once.
pub struct DiscoveryClient {
    connection: Connection,
    plan: Plan,
    poll_interval: Duration,
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
        Ok(Self { connection: Connection::open(address)?, plan, poll_interval })
    }

    /// Where this client expects the daemon.
    #[must_use]
    pub fn address(&self) -> &str {
        self.connection.address()
    }

    /// Makes a topic known. The same node may do so again, and replaces what it said before.
    ///
    /// # Errors
    /// [`Error::AlreadyRegistered`] when another node has the topic; [`Error::Refused`],
    /// [`Error::NoAnswer`], [`Error::Unreadable`], [`Error::Transport`].
    pub fn register_topic(&mut self, info: &TopicInfo) -> Result<()> {
        let topic = info.name.as_str();
        self.connection
            .call(&DiscoveryRequest::register(info.clone()), self.plan)?
            .registered(topic)
    }

    /// Makes a topic unknown. When an attempt got no answer and the next one hears that there is
    /// no such topic, that is success: the first has done it.
    ///
    /// # Errors
    /// [`Error::NoSuchTopic`]; [`Error::Refused`], [`Error::NoAnswer`], [`Error::Unreadable`],
    /// [`Error::Transport`].
    pub fn unregister_topic(&mut self, topic: &str) -> Result<()> {
        self.connection.call(&DiscoveryRequest::unregister(topic), self.plan)?.unregistered(topic)
    }

    /// Asks for one topic.
    ///
    /// # Errors
    /// [`Error::NoSuchTopic`]; [`Error::Refused`], [`Error::NoAnswer`], [`Error::Unreadable`],
    /// [`Error::Transport`].
    pub fn lookup_topic(&mut self, topic: &str) -> Result<TopicInfo> {
        self.connection.call(&DiscoveryRequest::lookup(topic), self.plan)?.found(topic)
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
        let found = self.wait(topic, timeout);
        self.connection.stop_monitor();
        found
    }

    fn wait(&mut self, topic: &str, timeout: Duration) -> Result<TopicInfo> {
        let lookup = DiscoveryRequest::lookup(topic);
        let mut wait = Wait::start(timeout, self.poll_interval, self.plan.timeout, Instant::now());
        let mut lookups: u32 = 0;
        loop {
            match wait.next(Instant::now()) {
                wait::Next::Lookup { timeout } => {
                    lookups = lookups.saturating_add(1);
                    let plan = Plan { timeout, attempts: 1 };
                    let reply = self.connection.call_monitored(&lookup, plan);
                    match reply.and_then(|reply| reply.found(topic)) {
                        Err(Error::NoSuchTopic { .. }) => wait.absent(),
                        Err(Error::NoAnswer { .. }) => wait.unanswered(),
                        found_or_failed => return found_or_failed,
                    }
                }
                wait::Next::Pause(pause) => thread::sleep(pause),
                wait::Next::Over { heard: true } => {
                    return Err(Error::WaitTimedOut { topic: topic.to_owned(), waited: timeout });
                }
                wait::Next::Over { heard: false } => {
                    return Err(self.connection.no_answer(timeout, lookups));
                }
            }
        }
    }

    /// Asks for all topics, in the order of their first registration.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::NoAnswer`], [`Error::Unreadable`], [`Error::Transport`].
    pub fn list_topics(&mut self) -> Result<Vec<TopicInfo>> {
        self.connection.call(&DiscoveryRequest::list(), self.plan)?.listed()
    }

    /// Asks whether a daemon is there.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] when none is; [`Error::Refused`], [`Error::Unreadable`],
    /// [`Error::Transport`].
    pub fn ping(&mut self) -> Result<()> {
        self.connection.call(&DiscoveryRequest::ping(), self.plan)?.done()
    }

    /// Asks the daemon to end. It may still be there for a moment after it agreed.
    ///
    /// # Errors
    /// [`Error::Refused`] when this user may not; [`Error::NoAnswer`], also when the daemon ended
    /// without its answer arriving; [`Error::Unreadable`], [`Error::Transport`].
    pub fn shutdown(&mut self) -> Result<()> {
        self.connection.call(&DiscoveryRequest::shutdown(), self.plan)?.done()
    }
}

impl fmt::Debug for DiscoveryClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryClient")
            .field("address", &self.address())
            .field("plan", &self.plan)
            .field("poll_interval", &self.poll_interval)
            .finish_non_exhaustive()
    }
}
