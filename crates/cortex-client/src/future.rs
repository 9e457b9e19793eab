//! The asynchronous client.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use cortex_proto::{DiscoveryRequest, RequestExt, TopicInfo};

use crate::advertisement::{Advertisement, Notice};
use crate::blocking::DiscoveryClient;
use crate::builder::DiscoveryClientBuilder;
use crate::calls::with_calls;
use crate::driver::{ClientKind, Handle};
use crate::error::{Error, Result};
use crate::info::{DaemonInfo, TopicDescription};
use crate::protocol::reply::Reply;
use crate::watch_handle::AsyncWatch;

/// An asynchronous client of the discovery daemon, for any executor.
///
/// It has the calls of a [`DiscoveryClient`], with the same results and errors, as futures. A clone
/// is cheap and shares the connection, which carries any number of concurrent calls.
///
/// No call blocks its executor, and each ends within its timeout, also when nothing polls it: the
/// client has a thread of its own. A call starts when it is first polled. Dropping its future
/// cancels it: the client never sends an unsent request, but the daemon may carry out a sent one.
///
/// At the end of a program that advertises topics, call [`close`](Self::close): dropping the client
/// does not wait, or hardly.
///
/// ```no_run
/// use std::time::Duration;
///
/// use cortex_client::{AsyncDiscoveryClient, WatchEvent};
///
/// # async fn example() -> cortex_client::Result<()> {
/// let client = AsyncDiscoveryClient::builder().timeout(Duration::from_secs(1)).build_async()?;
///
/// let lidar = client.wait_for_topic("/lidar/points", Duration::from_secs(10)).await?;
/// println!("{} sends {}", lidar.publisher_node, lidar.message_type);
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
    handle: Handle,
}

impl AsyncDiscoveryClient {
    /// Makes a client for the daemon at
    /// [`DEFAULT_DISCOVERY_ADDRESS`](cortex_proto::DEFAULT_DISCOVERY_ADDRESS), with the other
    /// defaults of [`builder`](Self::builder).
    ///
    /// # Errors
    /// Those of [`DiscoveryClientBuilder::build_async`].
    pub fn new() -> Result<Self> {
        Self::builder().build_async()
    }

    /// Makes a client for the daemon at `address`, with the other defaults of
    /// [`builder`](Self::builder).
    ///
    /// # Errors
    /// Those of [`DiscoveryClientBuilder::build_async`].
    pub fn connect(address: impl Into<String>) -> Result<Self> {
        Self::builder().address(address).build_async()
    }

    /// The settings of a new client, with the same defaults as for the blocking client.
    pub fn builder() -> DiscoveryClientBuilder {
        DiscoveryClientBuilder::default()
    }

    pub(crate) fn from_handle(handle: Handle) -> Self {
        Self { handle }
    }

    /// The daemon's address, in its canonical form.
    #[must_use]
    pub fn address(&self) -> &str {
        self.handle.settings().address.as_str()
    }

    /// Waits until a topic is registered; see [`DiscoveryClient::wait_for_topic`].
    ///
    /// # Errors
    /// Those of the blocking call.
    pub async fn wait_for_topic(&self, topic: &str, timeout: Duration) -> Result<TopicInfo> {
        if self.handle.is_forked() {
            return Err(Error::Forked);
        }
        self.handle.wait(topic, timeout).await
    }

    /// Keeps a topic registered while the [`Advertisement`] lives; see
    /// [`DiscoveryClient::advertise`]. Await [`registered`](Advertisement::registered) and
    /// [`unregister_async`](Advertisement::unregister_async).
    ///
    /// # Errors
    /// Those of the blocking call.
    pub fn advertise(&self, info: TopicInfo) -> Result<Advertisement> {
        Advertisement::start(self.handle.clone(), info, None)
    }

    /// Like [`advertise`](Self::advertise), and calls `on_notice` when the state of the topic
    /// changes; see [`DiscoveryClient::advertise_with`].
    ///
    /// # Errors
    /// Those of the blocking call.
    pub fn advertise_with(
        &self,
        info: TopicInfo,
        on_notice: impl FnMut(Notice) + Send + 'static,
    ) -> Result<Advertisement> {
        Advertisement::start(self.handle.clone(), info, Some(Box::new(on_notice)))
    }

    /// Watches the topics that match `filter`, or all topics; see [`DiscoveryClient::watch`].
    ///
    /// # Errors
    /// Those of the blocking call.
    pub fn watch(&self, filter: Option<&str>) -> Result<AsyncWatch> {
        AsyncWatch::start(self.handle.clone(), filter)
    }

    /// Ends the client and withdraws its topics, within 1 s; see [`DiscoveryClient::close`].
    ///
    /// # Errors
    /// Those of the blocking call.
    pub async fn close(&self) -> Result<()> {
        if self.handle.is_forked() {
            return Err(Error::Forked);
        }
        self.handle.close().await
    }
}

/// Writes the calls that send one request and await its reply.
macro_rules! async_calls {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty)?) -> $result:ty =
        $request:expr => $read:ident($($with:expr)?);)*) => {
        impl AsyncDiscoveryClient {
            $($(#[$doc])*
            pub async fn $name(&self $(, $argument: $type)?) -> Result<$result> {
                if self.handle.is_forked() {
                    return Err(Error::Forked);
                }
                Reply::read(&self.handle.call(&$request).await?)?.$read($($with)?)
            })*
        }
    };
}

with_calls!(async_calls);

impl DiscoveryClientBuilder {
    /// Makes an [`AsyncDiscoveryClient`], also outside of any runtime. It connects in the
    /// background: the daemon may start later.
    ///
    /// # Errors
    /// Those of [`build`](Self::build).
    pub fn build_async(self) -> Result<AsyncDiscoveryClient> {
        self.start(ClientKind::Async).map(AsyncDiscoveryClient::from_handle)
    }
}

/// A handle of the other kind on the same connection and thread.
impl From<AsyncDiscoveryClient> for DiscoveryClient {
    fn from(client: AsyncDiscoveryClient) -> Self {
        Self::from_handle(client.handle.with_kind(ClientKind::Blocking))
    }
}

/// A handle of the other kind on the same connection and thread.
impl From<DiscoveryClient> for AsyncDiscoveryClient {
    fn from(client: DiscoveryClient) -> Self {
        Self { handle: client.into_handle().with_kind(ClientKind::Async) }
    }
}

impl fmt::Debug for AsyncDiscoveryClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncDiscoveryClient").field(self.handle.settings()).finish()
    }
}
