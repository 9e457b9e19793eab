//! The asynchronous client, with any number of concurrent requests on one [`AsyncConnection`].

mod connection;
mod dealer_socket;
mod driver;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cortex_proto::{DiscoveryRequest, RequestExt, TopicInfo};

use self::connection::{AsyncConnection, QueryOutcome};
use crate::advertise::{Advertisement, Advertiser, Notice};
use crate::builder::DiscoveryClientBuilder;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::info::{DaemonInfo, TopicDescription};
use crate::protocol::reply::Reply;
use crate::protocol::retry::RetryPolicy;
use crate::protocol::wait::{Wait, WaitAction};
use crate::protocol::watch::{WatchState, parse_filter};

pub use self::watch::AsyncWatch;

/// An asynchronous client of the discovery daemon, for tokio. Make it with
/// [`build_async`](DiscoveryClientBuilder::build_async) on a runtime.
///
/// A clone is cheap and shares the connection. The connection serves any number of concurrent
/// calls, also when the daemon answers them one by one. It closes when the last clone is dropped.
///
/// No call blocks the runtime, and each ends within its timeout, measured with the clock of the
/// runtime that made the client. A call starts when it is first polled. Dropping its future cancels
/// it: the client never sends an unsent request, but the daemon may carry out a sent one.
///
/// ```no_run
/// use std::time::Duration;
///
/// use cortex_client::{AsyncDiscoveryClient, WatchEvent};
///
/// # async fn example() -> cortex_client::Result<()> {
/// let client = AsyncDiscoveryClient::builder().timeout(Duration::from_secs(1)).build_async()?;
///
/// let lidar = tokio::spawn({
///     let client = client.clone();
///     async move { client.wait_for_topic("/lidar/points", Duration::from_secs(10)).await }
/// });
/// let camera = client.lookup_topic("/camera/image").await?;
/// println!("{} sends {}", camera.publisher_node, camera.message_type);
///
/// let mut watch = client.watch(Some("/camera/**"))?;
/// loop {
///     match watch.next_event().await? {
///         WatchEvent::Snapshot { topics, .. } => println!("{} topics", topics.len()),
///         WatchEvent::Changed(change) => println!("{}: {}", change.info.name, change.kind),
///         _ => {}
///     }
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct AsyncDiscoveryClient {
    connection: Arc<AsyncConnection>,
    policy: RetryPolicy,
    poll_interval: Duration,
    advertiser: Arc<Advertiser>,
}

impl AsyncDiscoveryClient {
    /// Makes a client for the daemon at
    /// [`DEFAULT_DISCOVERY_ADDRESS`](cortex_proto::DEFAULT_DISCOVERY_ADDRESS), with the other
    /// defaults of [`builder`](Self::builder).
    ///
    /// # Errors
    /// Those of [`DiscoveryClientBuilder::build_async`].
    ///
    /// # Panics
    /// As [`DiscoveryClientBuilder::build_async`].
    pub fn new() -> Result<Self> {
        Self::builder().build_async()
    }

    /// Makes a client for the daemon at `address`, with the other defaults of
    /// [`builder`](Self::builder).
    ///
    /// # Errors
    /// Those of [`DiscoveryClientBuilder::build_async`].
    ///
    /// # Panics
    /// As [`DiscoveryClientBuilder::build_async`].
    pub fn connect(address: impl Into<String>) -> Result<Self> {
        Self::builder().address(address).build_async()
    }

    /// The settings of a new client, with the same defaults as for the blocking client.
    pub fn builder() -> DiscoveryClientBuilder {
        DiscoveryClientBuilder::default()
    }

    pub(crate) fn start(
        address: String,
        policy: RetryPolicy,
        poll_interval: Duration,
    ) -> Result<Self> {
        let advertiser = Arc::new(Advertiser::new(address.clone(), policy.timeout));
        let connection = Arc::new(AsyncConnection::open(address, policy.timeout)?);
        Ok(Self { connection, policy, poll_interval, advertiser })
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
    /// [`Error::AlreadyRegistered`] when another node owns the topic; and those of every call:
    /// [`Error::Refused`], [`Error::NoAnswer`], [`Error::Unreadable`], [`Error::Transport`],
    /// [`Error::NoRuntime`].
    pub async fn register_topic(&self, info: &TopicInfo) -> Result<()> {
        let topic = info.name.as_str();
        self.call(&DiscoveryRequest::register(info.clone())).await?.registered(topic)
    }

    /// Unregisters a topic. When an attempt gets no answer and the next one finds no such topic,
    /// the call succeeds: the first attempt has unregistered it.
    ///
    /// # Errors
    /// [`Error::NoSuchTopic`]; and those of every call: [`Error::Refused`], [`Error::NoAnswer`],
    /// [`Error::Unreadable`], [`Error::Transport`], [`Error::NoRuntime`].
    pub async fn unregister_topic(&self, topic: &str) -> Result<()> {
        self.call(&DiscoveryRequest::unregister(topic)).await?.unregistered(topic)
    }

    /// Looks up one topic.
    ///
    /// # Errors
    /// [`Error::NoSuchTopic`]; and those of every call: [`Error::Refused`], [`Error::NoAnswer`],
    /// [`Error::Unreadable`], [`Error::Transport`], [`Error::NoRuntime`].
    pub async fn lookup_topic(&self, topic: &str) -> Result<TopicInfo> {
        self.call(&DiscoveryRequest::lookup(topic)).await?.found(topic)
    }

    /// Keeps a topic registered while the [`Advertisement`] lives, like
    /// [`DiscoveryClient::advertise`](crate::DiscoveryClient::advertise): without waiting, on one
    /// thread for all clones of this client. Dropping the guard does not wait either. To wait, use
    /// [`registered`](Advertisement::registered) and
    /// [`unregister_async`](Advertisement::unregister_async).
    ///
    /// # Errors
    /// [`Error::Thread`] and [`Error::Transport`] when the thread cannot start.
    pub fn advertise(&self, info: TopicInfo) -> Result<Advertisement> {
        self.advertiser.advertise(info, None, Duration::ZERO)
    }

    /// Like [`advertise`](Self::advertise), and calls `on_notice` when the state of the topic
    /// changes. The callback runs on the thread of all the client's advertisements, so it must not
    /// block for long; it may drop advertisements. When it panics, the client drops it, and the
    /// topic stays advertised.
    ///
    /// # Errors
    /// Those of [`advertise`](Self::advertise).
    pub fn advertise_with(
        &self,
        info: TopicInfo,
        on_notice: impl FnMut(Notice) + Send + 'static,
    ) -> Result<Advertisement> {
        self.advertiser.advertise(info, Some(Box::new(on_notice)), Duration::ZERO)
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
    /// [`Error::InvalidFilter`].
    pub fn watch(&self, filter: Option<&str>) -> Result<AsyncWatch> {
        let state = WatchState::new(parse_filter(filter)?, self.poll_interval, self.policy.timeout);
        Ok(AsyncWatch::start(Arc::clone(&self.connection), state))
    }

    /// Lists all topics, in the order of their first registration.
    ///
    /// # Errors
    /// Those of every call: [`Error::Refused`], [`Error::NoAnswer`], [`Error::Unreadable`],
    /// [`Error::Transport`], [`Error::NoRuntime`].
    pub async fn list_topics(&self) -> Result<Vec<TopicInfo>> {
        self.call(&DiscoveryRequest::list()).await?.listed()
    }

    /// Checks that a daemon answers.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] when none does; [`Error::Refused`], [`Error::Unreadable`],
    /// [`Error::Transport`], [`Error::NoRuntime`].
    pub async fn ping(&self) -> Result<()> {
        self.call(&DiscoveryRequest::ping()).await?.done()
    }

    /// Requests information about the daemon. From a daemon that speaks only the legacy protocol it
    /// is empty, with level 0.
    ///
    /// # Errors
    /// Those of [`ping`](Self::ping).
    pub async fn hello(&self) -> Result<DaemonInfo> {
        let request = DiscoveryRequest::ping().with_ext(RequestExt::default());
        self.call(&request).await?.daemon_info()
    }

    /// Looks up one topic, with the daemon's information about its registration.
    ///
    /// # Errors
    /// Those of [`lookup_topic`](Self::lookup_topic).
    pub async fn describe(&self, topic: &str) -> Result<TopicDescription> {
        let request = DiscoveryRequest::lookup(topic).with_ext(RequestExt::default());
        self.call(&request).await?.described(topic)
    }

    /// Lists all topics in the order of their first registration, with the daemon's information
    /// about each registration.
    ///
    /// # Errors
    /// Those of [`list_topics`](Self::list_topics).
    pub async fn describe_all(&self) -> Result<Vec<TopicDescription>> {
        let request = DiscoveryRequest::list().with_ext(RequestExt::default());
        self.call(&request).await?.all_described()
    }

    /// Requests the daemon's counters and gauges, by name; times are in ms.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the daemon has none because it speaks only the legacy
    /// protocol; and those of every call: [`Error::Refused`], [`Error::NoAnswer`],
    /// [`Error::Unreadable`], [`Error::Transport`], [`Error::NoRuntime`].
    pub async fn stats(&self) -> Result<BTreeMap<String, u64>> {
        self.call(&DiscoveryRequest::stats()).await?.stats()
    }

    /// Shuts the daemon down. It may still run for a moment after its answer.
    ///
    /// # Errors
    /// [`Error::Refused`] when the daemon does not allow it to this user; [`Error::NoAnswer`], also
    /// when the daemon ended before its answer arrived; [`Error::Unreadable`],
    /// [`Error::Transport`], [`Error::NoRuntime`].
    pub async fn shutdown(&self) -> Result<()> {
        self.call(&DiscoveryRequest::shutdown()).await?.done()
    }

    /// Waits until a topic is registered, at most `timeout`
    /// ([`DEFAULT_WAIT_TIMEOUT`](crate::DEFAULT_WAIT_TIMEOUT) is a good default). The call returns
    /// as soon as the topic is registered. A daemon that speaks only the legacy protocol is polled
    /// at each poll interval. The daemon may start late or restart during the wait.
    ///
    /// # Errors
    /// [`Error::WaitTimedOut`] when the daemon answers but the topic did not appear;
    /// [`Error::NoAnswer`] when no daemon answered at the end; [`Error::Refused`],
    /// [`Error::Unreadable`], [`Error::Transport`] and [`Error::NoRuntime`] at once.
    pub async fn wait_for_topic(&self, topic: &str, timeout: Duration) -> Result<TopicInfo> {
        let connection = &self.connection;
        let now = connection.now();
        let mut wait = Wait::start(topic, timeout, self.poll_interval, self.policy.timeout, now);
        loop {
            match wait.next_action(connection.now()) {
                WaitAction::Send(query) => match connection.query(query).await? {
                    QueryOutcome::Reply(reply) => {
                        if let Some(info) = wait.answered(reply, connection.now())? {
                            return Ok(info);
                        }
                    }
                    QueryOutcome::Disconnected => wait.lost(connection.now()),
                    QueryOutcome::NoAnswer { was_lost, .. } => wait.unanswered(was_lost),
                },
                WaitAction::Pause(pause) => connection.pause(pause).await?,
                WaitAction::Expired => return Err(wait.failure(self.address())),
            }
        }
    }

    async fn call(&self, request: &DiscoveryRequest) -> Result<Reply> {
        self.connection.call(request, self.policy).await
    }
}

impl fmt::Debug for AsyncDiscoveryClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncDiscoveryClient")
            .field("address", &self.address())
            .field("policy", &self.policy)
            .field("poll_interval", &self.poll_interval)
            .finish_non_exhaustive()
    }
}
