//! The blocking client, with one request at a time on a [`Connection`].

mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use cortex_proto::{DiscoveryRequest, RequestExt, TopicInfo};

use crate::advertise::{Advertisement, Advertiser, CLOSE_TIMEOUT, Notice};
use crate::builder::DiscoveryClientBuilder;
use crate::connection::{Call, CallOutcome, Connection};
use crate::error::{Error, Result};
use crate::info::{DaemonInfo, TopicDescription};
use crate::protocol::retry::RetryPolicy;
use crate::protocol::wait::{Wait, WaitAction};
use crate::protocol::watch::{WatchState, parse_filter};

pub use watch::Watch;

/// A blocking client of the discovery daemon, for one thread at a time.
///
/// You can send it to another thread. Dropping it closes the connection at once.
pub struct DiscoveryClient {
    connection: Connection,
    policy: RetryPolicy,
    poll_interval: Duration,
    advertiser: Advertiser,
}

impl DiscoveryClient {
    /// Makes a client for the daemon at
    /// [`DEFAULT_DISCOVERY_ADDRESS`](cortex_proto::DEFAULT_DISCOVERY_ADDRESS), with the other
    /// defaults of [`builder`](Self::builder).
    ///
    /// # Errors
    /// Those of [`DiscoveryClientBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Makes a client for the daemon at `address`, with the other defaults of
    /// [`builder`](Self::builder).
    ///
    /// # Errors
    /// Those of [`DiscoveryClientBuilder::build`].
    pub fn connect(address: impl Into<String>) -> Result<Self> {
        Self::builder().address(address).build()
    }

    /// The settings of a new client: the default address, one attempt of 5 s per call, and a poll
    /// interval of 500 ms.
    pub fn builder() -> DiscoveryClientBuilder {
        DiscoveryClientBuilder::default()
    }

    pub(crate) fn start(
        address: String,
        policy: RetryPolicy,
        poll_interval: Duration,
    ) -> Result<Self> {
        let advertiser = Advertiser::new(address.clone(), policy.timeout);
        Ok(Self { connection: Connection::open(address)?, policy, poll_interval, advertiser })
    }

    /// The daemon's address.
    #[must_use]
    pub fn address(&self) -> &str {
        self.connection.address()
    }

    /// Registers a topic. The same node may register it again, which replaces the earlier
    /// [`TopicInfo`].
    ///
    /// # Errors
    /// [`Error::AlreadyRegistered`] when another node owns the topic; [`Error::Refused`],
    /// [`Error::NoAnswer`], [`Error::Unreadable`], [`Error::Transport`].
    pub fn register_topic(&mut self, info: &TopicInfo) -> Result<()> {
        let topic = info.name.as_str();
        self.connection
            .call(&DiscoveryRequest::register(info.clone()), self.policy)?
            .registered(topic)
    }

    /// Unregisters a topic. When an attempt gets no answer and the next one finds no such topic,
    /// the call succeeds: the first attempt has unregistered it.
    ///
    /// # Errors
    /// [`Error::NoSuchTopic`]; [`Error::Refused`], [`Error::NoAnswer`], [`Error::Unreadable`],
    /// [`Error::Transport`].
    pub fn unregister_topic(&mut self, topic: &str) -> Result<()> {
        self.connection.call(&DiscoveryRequest::unregister(topic), self.policy)?.unregistered(topic)
    }

    /// Looks up one topic.
    ///
    /// # Errors
    /// [`Error::NoSuchTopic`]; [`Error::Refused`], [`Error::NoAnswer`], [`Error::Unreadable`],
    /// [`Error::Transport`].
    pub fn lookup_topic(&mut self, topic: &str) -> Result<TopicInfo> {
        self.connection.call(&DiscoveryRequest::lookup(topic), self.policy)?.found(topic)
    }

    /// Waits until a topic is registered, at most `timeout`
    /// ([`DEFAULT_WAIT_TIMEOUT`](crate::DEFAULT_WAIT_TIMEOUT) is a good default). The call returns
    /// as soon as the topic is registered. A daemon that speaks only the legacy protocol is polled
    /// at each poll interval. The daemon may start late or restart during the wait.
    ///
    /// # Errors
    /// [`Error::WaitTimedOut`] when the daemon answers but the topic did not appear;
    /// [`Error::NoAnswer`] when no daemon answered at the end; [`Error::Refused`],
    /// [`Error::Unreadable`] and [`Error::Transport`] at once.
    pub fn wait_for_topic(&mut self, topic: &str, timeout: Duration) -> Result<TopicInfo> {
        let found = self.wait(topic, timeout);
        self.connection.stop_monitor();
        found
    }

    fn wait(&mut self, topic: &str, timeout: Duration) -> Result<TopicInfo> {
        let now = Instant::now();
        let mut wait = Wait::start(topic, timeout, self.poll_interval, self.policy.timeout, now);
        loop {
            let query = match wait.next_action(Instant::now()) {
                WaitAction::Send(query) => query,
                WaitAction::Pause(pause) => {
                    thread::sleep(pause);
                    continue;
                }
                WaitAction::Expired => return Err(wait.failure(self.address())),
            };
            let mut call = Call::of(query);
            match self.connection.advance(&mut call, None) {
                Ok(CallOutcome::Answered(reply)) => {
                    if let Some(info) = wait.answered(reply, Instant::now())? {
                        return Ok(info);
                    }
                }
                Ok(CallOutcome::Lost) => wait.lost(Instant::now()),
                Err(Error::NoAnswer { .. }) => wait.unanswered(call.was_lost()),
                // A call without a deadline never ends like this.
                Ok(CallOutcome::Pending) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Keeps a topic registered while the [`Advertisement`] lives: also when the daemon starts
    /// late, restarts, loses its state or is replaced, and when another process removes the topic.
    /// The call does not wait, and it never fails because no daemon is running.
    ///
    /// The hold of the topic is this process when the daemon can see it, otherwise a session that
    /// the client renews. So the topic ends with the process, however the process ends. While
    /// another node owns the topic, the client retries until it is free. One thread with its own
    /// connection serves all advertisements of a client; no other call waits for it. When the
    /// daemon does not answer within the client's [`timeout`](DiscoveryClientBuilder::timeout) (2 s
    /// at least), it counts as missing.
    ///
    /// The last advertisement of a topic counts. A second one with another [`TopicInfo`] updates
    /// the registration, and dropping the first one then changes nothing.
    ///
    /// # Errors
    /// [`Error::Thread`] and [`Error::Transport`] when the thread cannot start.
    pub fn advertise(&mut self, info: TopicInfo) -> Result<Advertisement> {
        self.advertiser.advertise(info, None, CLOSE_TIMEOUT)
    }

    /// Like [`advertise`](Self::advertise), and calls `on_notice` when the state of the topic
    /// changes. The callback runs on the thread of all the client's advertisements, so it must not
    /// block for long; it may drop advertisements. When it panics, the client drops it, and the
    /// topic stays advertised.
    ///
    /// # Errors
    /// Those of [`advertise`](Self::advertise).
    pub fn advertise_with(
        &mut self,
        info: TopicInfo,
        on_notice: impl FnMut(Notice) + Send + 'static,
    ) -> Result<Advertisement> {
        self.advertiser.advertise(info, Some(Box::new(on_notice)), CLOSE_TIMEOUT)
    }

    /// Watches the topics that match `filter`, a pattern of
    /// [`TopicFilter`](cortex_proto::TopicFilter), or all topics. The first event is a snapshot;
    /// each change follows as it happens.
    ///
    /// A daemon that speaks only the legacy protocol is polled at each poll interval. When the
    /// daemon restarts, the watch misses no event and repeats none; where it cannot know the events
    /// in between, it gives a new snapshot.
    ///
    /// # Errors
    /// [`Error::InvalidFilter`]; [`Error::Transport`] when ZeroMQ cannot create a socket.
    pub fn watch(&self, filter: Option<&str>) -> Result<Watch> {
        let state = WatchState::new(parse_filter(filter)?, self.poll_interval, self.policy.timeout);
        Watch::start(self.address().to_owned(), state)
    }

    /// Lists all topics, in the order of their first registration.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::NoAnswer`], [`Error::Unreadable`], [`Error::Transport`].
    pub fn list_topics(&mut self) -> Result<Vec<TopicInfo>> {
        self.connection.call(&DiscoveryRequest::list(), self.policy)?.listed()
    }

    /// Checks that a daemon answers.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] when none does; [`Error::Refused`], [`Error::Unreadable`],
    /// [`Error::Transport`].
    pub fn ping(&mut self) -> Result<()> {
        self.connection.call(&DiscoveryRequest::ping(), self.policy)?.done()
    }

    /// Requests information about the daemon. From a daemon that speaks only the legacy protocol it
    /// is empty, with level 0.
    ///
    /// # Errors
    /// Those of [`ping`](Self::ping).
    pub fn hello(&mut self) -> Result<DaemonInfo> {
        let request = DiscoveryRequest::ping().with_ext(RequestExt::default());
        self.connection.call(&request, self.policy)?.daemon_info()
    }

    /// Looks up one topic, with the daemon's information about its registration.
    ///
    /// # Errors
    /// Those of [`lookup_topic`](Self::lookup_topic).
    pub fn describe(&mut self, topic: &str) -> Result<TopicDescription> {
        let request = DiscoveryRequest::lookup(topic).with_ext(RequestExt::default());
        self.connection.call(&request, self.policy)?.described(topic)
    }

    /// Lists all topics in the order of their first registration, with the daemon's information
    /// about each registration.
    ///
    /// # Errors
    /// Those of [`list_topics`](Self::list_topics).
    pub fn describe_all(&mut self) -> Result<Vec<TopicDescription>> {
        let request = DiscoveryRequest::list().with_ext(RequestExt::default());
        self.connection.call(&request, self.policy)?.all_described()
    }

    /// Requests the daemon's counters and gauges, by name; times are in ms.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the daemon has none because it speaks only the legacy protocol;
    /// [`Error::Refused`], [`Error::NoAnswer`], [`Error::Unreadable`], [`Error::Transport`].
    pub fn stats(&mut self) -> Result<BTreeMap<String, u64>> {
        self.connection.call(&DiscoveryRequest::stats(), self.policy)?.stats()
    }

    /// Shuts the daemon down. It may still run for a moment after its answer.
    ///
    /// # Errors
    /// [`Error::Refused`] when the daemon does not allow it to this user; [`Error::NoAnswer`], also
    /// when the daemon ended before its answer arrived; [`Error::Unreadable`],
    /// [`Error::Transport`].
    pub fn shutdown(&mut self) -> Result<()> {
        self.connection.call(&DiscoveryRequest::shutdown(), self.policy)?.done()
    }
}

impl fmt::Debug for DiscoveryClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryClient")
            .field("address", &self.address())
            .field("policy", &self.policy)
            .field("poll_interval", &self.poll_interval)
            .finish_non_exhaustive()
    }
}
