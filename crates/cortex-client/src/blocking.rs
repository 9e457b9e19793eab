//! The blocking client: one request at a time on a [`Connection`].

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
use crate::exchange::RetryPolicy;
use crate::info::{DaemonInfo, TopicDescription};
use crate::wait::{Wait, WaitAction};
use crate::watch::{WatchState, parse_filter};

pub use watch::Watch;

/// A client of the discovery daemon, for one thread at a time.
///
/// It may be sent to another thread. Dropping it closes the connection at once.
pub struct DiscoveryClient {
    connection: Connection,
    policy: RetryPolicy,
    poll_interval: Duration,
    advertiser: Advertiser,
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
    /// between two questions to a daemon that has to be asked again and again.
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
            .call(&DiscoveryRequest::register(info.clone()), self.policy)?
            .registered(topic)
    }

    /// Makes a topic unknown. When an attempt got no answer and the next one hears that there is
    /// no such topic, that is success: the first has done it.
    ///
    /// # Errors
    /// [`Error::NoSuchTopic`]; [`Error::Refused`], [`Error::NoAnswer`], [`Error::Unreadable`],
    /// [`Error::Transport`].
    pub fn unregister_topic(&mut self, topic: &str) -> Result<()> {
        self.connection.call(&DiscoveryRequest::unregister(topic), self.policy)?.unregistered(topic)
    }

    /// Asks for one topic.
    ///
    /// # Errors
    /// [`Error::NoSuchTopic`]; [`Error::Refused`], [`Error::NoAnswer`], [`Error::Unreadable`],
    /// [`Error::Transport`].
    pub fn lookup_topic(&mut self, topic: &str) -> Result<TopicInfo> {
        self.connection.call(&DiscoveryRequest::lookup(topic), self.policy)?.found(topic)
    }

    /// Waits for a topic to be registered, at most `timeout`
    /// ([`DEFAULT_WAIT_TIMEOUT`](crate::DEFAULT_WAIT_TIMEOUT) is a sensible one). The daemon tells as
    /// soon as the topic is there; one that speaks the legacy protocol alone is asked at each poll
    /// interval. A daemon that is not there yet, or is replaced meanwhile, is waited for as well.
    ///
    /// # Errors
    /// [`Error::WaitTimedOut`] when the daemon answers but the topic did not appear;
    /// [`Error::NoAnswer`] when there was no daemon at the end; [`Error::Refused`],
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
                // Without a time of its own the call goes on to an outcome.
                Ok(CallOutcome::Pending) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Keeps a topic registered for as long as the [`Advertisement`] lives: at a daemon that comes
    /// late, restarts, comes back empty or is replaced by another one, and when somebody else takes
    /// the topic away. It does not wait, and it never fails for lack of a daemon.
    ///
    /// The topic is held by this process where the daemon sees it, else by a session that is
    /// renewed: it goes when the process ends, however that happens. Another node's topic is taken
    /// over when it is free. One thread serves all advertisements of a client; it has a connection
    /// of its own, and no call of this client waits for it. A daemon that does not answer within
    /// the client's [`timeout`](DiscoveryClientBuilder::timeout) (2 s at least) counts as
    /// missing.
    ///
    /// The last advertisement of a topic counts: a second one with other facts updates what the
    /// daemon knows, and dropping the first one then changes nothing.
    ///
    /// # Errors
    /// [`Error::Thread`] and [`Error::Transport`] when the thread cannot be started.
    pub fn advertise(&mut self, info: TopicInfo) -> Result<Advertisement> {
        self.advertiser.advertise(info, None, CLOSE_TIMEOUT)
    }

    /// The same, and tells what becomes of the topic. `on_notice` is called on the thread of all
    /// the client's advertisements, so it must not wait for long; it may drop advertisements. When
    /// it panics it is dropped, and the topic stays advertised.
    ///
    /// # Errors
    /// As [`advertise`](Self::advertise).
    pub fn advertise_with(
        &mut self,
        info: TopicInfo,
        on_notice: impl FnMut(Notice) + Send + 'static,
    ) -> Result<Advertisement> {
        self.advertiser.advertise(info, Some(Box::new(on_notice)), CLOSE_TIMEOUT)
    }

    /// Watches the topics that match `filter`, a pattern as
    /// [`TopicFilter`](cortex_proto::TopicFilter) describes it, or all: first tells which there are,
    /// then what happens, as it happens.
    ///
    /// A daemon that speaks the legacy protocol alone is asked for its list at each poll interval.
    /// Through a restart of the daemon nothing is missed and nothing told twice; where that cannot
    /// be, there is a new snapshot.
    ///
    /// # Errors
    /// [`Error::InvalidFilter`]; [`Error::Transport`] when no socket can be made.
    pub fn watch(&self, filter: Option<&str>) -> Result<Watch> {
        let state = WatchState::new(parse_filter(filter)?, self.poll_interval, self.policy.timeout);
        Watch::start(self.address().to_owned(), state)
    }

    /// Asks for all topics, in the order of their first registration.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::NoAnswer`], [`Error::Unreadable`], [`Error::Transport`].
    pub fn list_topics(&mut self) -> Result<Vec<TopicInfo>> {
        self.connection.call(&DiscoveryRequest::list(), self.policy)?.listed()
    }

    /// Asks whether a daemon is there.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] when none is; [`Error::Refused`], [`Error::Unreadable`],
    /// [`Error::Transport`].
    pub fn ping(&mut self) -> Result<()> {
        self.connection.call(&DiscoveryRequest::ping(), self.policy)?.done()
    }

    /// Asks the daemon for what it says of itself. One that speaks the legacy protocol alone has
    /// nothing to say but that it is there: level 0.
    ///
    /// # Errors
    /// As [`ping`](Self::ping).
    pub fn hello(&mut self) -> Result<DaemonInfo> {
        let request = DiscoveryRequest::ping().with_ext(RequestExt::default());
        self.connection.call(&request, self.policy)?.daemon_info()
    }

    /// Asks for one topic, and for what the daemon knows of it.
    ///
    /// # Errors
    /// As [`lookup_topic`](Self::lookup_topic).
    pub fn describe(&mut self, topic: &str) -> Result<TopicDescription> {
        let request = DiscoveryRequest::lookup(topic).with_ext(RequestExt::default());
        self.connection.call(&request, self.policy)?.described(topic)
    }

    /// Asks for all topics, in the order of their first registration, and for what the daemon knows
    /// of each.
    ///
    /// # Errors
    /// As [`list_topics`](Self::list_topics).
    pub fn describe_all(&mut self) -> Result<Vec<TopicDescription>> {
        let request = DiscoveryRequest::list().with_ext(RequestExt::default());
        self.connection.call(&request, self.policy)?.all_described()
    }

    /// Asks for the daemon's counters and gauges, by their names; times are in ms.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the daemon has none, as one that speaks the legacy protocol
    /// alone; [`Error::Refused`], [`Error::NoAnswer`], [`Error::Unreadable`], [`Error::Transport`].
    pub fn stats(&mut self) -> Result<BTreeMap<String, u64>> {
        self.connection.call(&DiscoveryRequest::stats(), self.policy)?.stats()
    }

    /// Asks the daemon to end. It may still be there for a moment after it agreed.
    ///
    /// # Errors
    /// [`Error::Refused`] when this user may not; [`Error::NoAnswer`], also when the daemon ended
    /// without its answer arriving; [`Error::Unreadable`], [`Error::Transport`].
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
