//! The asynchronous client: any number of requests at once on one [`AsyncConnection`].

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
use crate::exchange::RetryPolicy;
use crate::info::{DaemonInfo, TopicDescription};
use crate::reply::Reply;
use crate::wait::{Wait, WaitAction};
use crate::watch::{WatchState, parse_filter};

pub use self::watch::AsyncWatch;

/// A client of the discovery daemon for tokio, made by
/// [`build_async`](DiscoveryClientBuilder::build_async) on a runtime.
///
/// A clone is cheap and uses the same connection, which serves any number of calls at once, also
/// with a daemon that answers them one by one. The connection is closed when the last clone is
/// dropped.
///
/// No call blocks the runtime, and each ends within its time; a call's time passes by the clock
/// of the runtime that the client was made on. A call does nothing before it is first polled.
/// Dropping it cancels it: a request that has not left yet never leaves; one that has may be
/// carried out.
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
    /// A client of the daemon at [`DEFAULT_DISCOVERY_ADDRESS`](cortex_proto::DEFAULT_DISCOVERY_ADDRESS),
    /// with the other defaults of [`builder`](Self::builder).
    ///
    /// # Errors
    /// As [`DiscoveryClientBuilder::build_async`].
    ///
    /// # Panics
    /// As [`DiscoveryClientBuilder::build_async`].
    pub fn new() -> Result<Self> {
        Self::builder().build_async()
    }

    /// A client of the daemon at `address`, with the other defaults of [`builder`](Self::builder).
    ///
    /// # Errors
    /// As [`DiscoveryClientBuilder::build_async`].
    ///
    /// # Panics
    /// As [`DiscoveryClientBuilder::build_async`].
    pub fn connect(address: impl Into<String>) -> Result<Self> {
        Self::builder().address(address).build_async()
    }

    /// Settings for a client, the same as those of the blocking one.
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

    /// Where this client expects the daemon.
    #[must_use]
    pub fn address(&self) -> &str {
        self.connection.address()
    }

    /// Makes a topic known. The same node may do so again, and replaces what it said before.
    ///
    /// # Errors
    /// [`Error::AlreadyRegistered`] when another node has the topic; and those of every call:
    /// [`Error::Refused`], [`Error::NoAnswer`], [`Error::Unreadable`], [`Error::Transport`],
    /// [`Error::NoRuntime`].
    pub async fn register_topic(&self, info: &TopicInfo) -> Result<()> {
        let topic = info.name.as_str();
        self.call(&DiscoveryRequest::register(info.clone())).await?.registered(topic)
    }

    /// Makes a topic unknown. When an attempt got no answer and the next one hears that there is
    /// no such topic, that is success: the first has done it.
    ///
    /// # Errors
    /// [`Error::NoSuchTopic`]; and those of every call: [`Error::Refused`], [`Error::NoAnswer`],
    /// [`Error::Unreadable`], [`Error::Transport`], [`Error::NoRuntime`].
    pub async fn unregister_topic(&self, topic: &str) -> Result<()> {
        self.call(&DiscoveryRequest::unregister(topic)).await?.unregistered(topic)
    }

    /// Asks for one topic.
    ///
    /// # Errors
    /// [`Error::NoSuchTopic`]; and those of every call: [`Error::Refused`], [`Error::NoAnswer`],
    /// [`Error::Unreadable`], [`Error::Transport`], [`Error::NoRuntime`].
    pub async fn lookup_topic(&self, topic: &str) -> Result<TopicInfo> {
        self.call(&DiscoveryRequest::lookup(topic)).await?.found(topic)
    }

    /// Keeps a topic registered for as long as the [`Advertisement`] lives, as
    /// [`DiscoveryClient::advertise`](crate::DiscoveryClient::advertise) does: on a thread of its own,
    /// one for all clones of this client, and without waiting. Dropping the guard does not wait
    /// either; [`registered`](Advertisement::registered) and
    /// [`unregister_async`](Advertisement::unregister_async) are there for who wants to be sure.
    ///
    /// # Errors
    /// [`Error::Thread`] and [`Error::Transport`] when the thread cannot be started.
    pub fn advertise(&self, info: TopicInfo) -> Result<Advertisement> {
        self.advertiser.advertise(info, None, Duration::ZERO)
    }

    /// The same, and tells what becomes of the topic. `on_notice` is called on the thread of all
    /// the client's advertisements, so it must not wait for long; it may drop advertisements. When
    /// it panics it is dropped, and the topic stays advertised.
    ///
    /// # Errors
    /// As [`advertise`](Self::advertise).
    pub fn advertise_with(
        &self,
        info: TopicInfo,
        on_notice: impl FnMut(Notice) + Send + 'static,
    ) -> Result<Advertisement> {
        self.advertiser.advertise(info, Some(Box::new(on_notice)), Duration::ZERO)
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
    /// [`Error::InvalidFilter`].
    pub fn watch(&self, filter: Option<&str>) -> Result<AsyncWatch> {
        let state = WatchState::new(parse_filter(filter)?, self.poll_interval, self.policy.timeout);
        Ok(AsyncWatch::start(Arc::clone(&self.connection), state))
    }

    /// Asks for all topics, in the order of their first registration.
    ///
    /// # Errors
    /// Those of every call: [`Error::Refused`], [`Error::NoAnswer`], [`Error::Unreadable`],
    /// [`Error::Transport`], [`Error::NoRuntime`].
    pub async fn list_topics(&self) -> Result<Vec<TopicInfo>> {
        self.call(&DiscoveryRequest::list()).await?.listed()
    }

    /// Asks whether a daemon is there.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] when none is; [`Error::Refused`], [`Error::Unreadable`],
    /// [`Error::Transport`], [`Error::NoRuntime`].
    pub async fn ping(&self) -> Result<()> {
        self.call(&DiscoveryRequest::ping()).await?.done()
    }

    /// Asks the daemon for what it says of itself. One that speaks the legacy protocol alone has
    /// nothing to say but that it is there: level 0.
    ///
    /// # Errors
    /// As [`ping`](Self::ping).
    pub async fn hello(&self) -> Result<DaemonInfo> {
        let request = DiscoveryRequest::ping().with_ext(RequestExt::default());
        self.call(&request).await?.daemon_info()
    }

    /// Asks for one topic, and for what the daemon knows of it.
    ///
    /// # Errors
    /// As [`lookup_topic`](Self::lookup_topic).
    pub async fn describe(&self, topic: &str) -> Result<TopicDescription> {
        let request = DiscoveryRequest::lookup(topic).with_ext(RequestExt::default());
        self.call(&request).await?.described(topic)
    }

    /// Asks for all topics, in the order of their first registration, and for what the daemon knows
    /// of each.
    ///
    /// # Errors
    /// As [`list_topics`](Self::list_topics).
    pub async fn describe_all(&self) -> Result<Vec<TopicDescription>> {
        let request = DiscoveryRequest::list().with_ext(RequestExt::default());
        self.call(&request).await?.all_described()
    }

    /// Asks for the daemon's counters and gauges, by their names; times are in ms.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the daemon has none, as one that speaks the legacy protocol
    /// alone; and those of every call: [`Error::Refused`], [`Error::NoAnswer`],
    /// [`Error::Unreadable`], [`Error::Transport`], [`Error::NoRuntime`].
    pub async fn stats(&self) -> Result<BTreeMap<String, u64>> {
        self.call(&DiscoveryRequest::stats()).await?.stats()
    }

    /// Asks the daemon to end. It may still be there for a moment after it agreed.
    ///
    /// # Errors
    /// [`Error::Refused`] when this user may not; [`Error::NoAnswer`], also when the daemon ended
    /// without its answer arriving; [`Error::Unreadable`], [`Error::Transport`],
    /// [`Error::NoRuntime`].
    pub async fn shutdown(&self) -> Result<()> {
        self.call(&DiscoveryRequest::shutdown()).await?.done()
    }

    /// Waits for a topic to be registered, at most `timeout`
    /// ([`DEFAULT_WAIT_TIMEOUT`](crate::DEFAULT_WAIT_TIMEOUT) is a sensible one). The daemon tells as
    /// soon as the topic is there; one that speaks the legacy protocol alone is asked at each poll
    /// interval. A daemon that is not there yet, or is replaced meanwhile, is waited for as well.
    ///
    /// # Errors
    /// [`Error::WaitTimedOut`] when the daemon answers but the topic did not appear;
    /// [`Error::NoAnswer`] when there was no daemon at the end; [`Error::Refused`],
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
