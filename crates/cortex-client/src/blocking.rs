//! The blocking client.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use cortex_proto::{DiscoveryRequest, RequestExt, TopicInfo};

use crate::advertisement::{Advertisement, Notice};
use crate::builder::DiscoveryClientBuilder;
use crate::calls::with_calls;
use crate::driver::{ClientKind, Handle};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::info::{DaemonInfo, TopicDescription};
use crate::protocol::reply::Reply;
use crate::watch_handle::Watch;

/// A blocking client of the discovery daemon.
///
/// A clone is cheap and shares the connection. All threads can use it at the same time: the
/// connection carries any number of concurrent calls. Each call ends within its timeout.
///
/// The client has a thread of its own, which ends with the last clone, [`Watch`] and
/// [`Advertisement`]. Then the drop waits for the withdrawal of topics, for 1 s at most; see also
/// [`close`](Self::close).
///
/// A forked child cannot use its parent's client: each call ends with [`Error::Forked`]. A callback
/// of an advertisement cannot make a call: it ends with [`Error::OnClientThread`].
///
/// # Errors of every call
///
/// [`Error::NoAnswer`] when no answer arrives in time, or [`Error::Unreachable`] with
/// [`fail_fast`](DiscoveryClientBuilder::fail_fast); [`Error::Refused`] when the daemon refuses the
/// request; [`Error::Unreadable`]; [`Error::Transport`] when the client cannot make a socket;
/// [`Error::Closed`], [`Error::Forked`] and [`Error::OnClientThread`].
#[derive(Clone)]
pub struct DiscoveryClient {
    handle: Handle,
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

    pub(crate) fn from_handle(handle: Handle) -> Self {
        Self { handle }
    }

    pub(crate) fn into_handle(self) -> Handle {
        self.handle
    }

    /// The daemon's address, in its canonical form.
    #[must_use]
    pub fn address(&self) -> &str {
        self.handle.settings().address.as_str()
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
    pub fn wait_for_topic(&self, topic: &str, timeout: Duration) -> Result<TopicInfo> {
        self.handle.check_may_wait()?;
        self.handle.wait(topic, timeout).wait()
    }

    /// Keeps a topic registered while the [`Advertisement`] lives: also when the daemon starts
    /// late, restarts, loses its state or is replaced, and when another process removes the topic.
    /// The call does not wait, and it never fails because no daemon is running.
    ///
    /// The hold of the topic is this process when the daemon can see it, otherwise a session that
    /// the client renews. So the topic ends with the process, however the process ends. While
    /// another node owns the topic, the client retries until it is free. When the daemon does not
    /// answer within the client's [`timeout`](DiscoveryClientBuilder::timeout) (2 s at least), it
    /// counts as missing.
    ///
    /// The first registration takes the topic over from an earlier process of the same node. When a
    /// later process takes it over in turn, the advertisement reports [`Error::Superseded`] and
    /// waits until that process has unregistered the topic or has ended.
    ///
    /// The last advertisement of a topic in a client counts. A second one with another
    /// [`TopicInfo`] updates the registration, and dropping the first one then changes nothing.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn advertise(&self, info: TopicInfo) -> Result<Advertisement> {
        Advertisement::start(self.handle.clone(), info, None)
    }

    /// Like [`advertise`](Self::advertise), and calls `on_notice` when the state of the topic
    /// changes. The callback runs on the client's thread, so all calls of the client wait for it;
    /// it may drop advertisements. When it panics, the client drops it, and the topic stays
    /// advertised.
    ///
    /// # Errors
    /// Those of [`advertise`](Self::advertise).
    pub fn advertise_with(
        &self,
        info: TopicInfo,
        on_notice: impl FnMut(Notice) + Send + 'static,
    ) -> Result<Advertisement> {
        Advertisement::start(self.handle.clone(), info, Some(Box::new(on_notice)))
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
    /// [`Error::InvalidFilter`], [`Error::Forked`].
    pub fn watch(&self, filter: Option<&str>) -> Result<Watch> {
        Watch::start(self.handle.clone(), filter)
    }

    /// Ends the client: withdraws all its advertised topics, within 1 s for all of them together,
    /// and closes the connection. From then on all calls of all clones, and those in progress, end
    /// with [`Error::Closed`].
    ///
    /// # Errors
    /// [`Error::NoAnswer`] when a topic could not be withdrawn in time; [`Error::Closed`] when the
    /// client is closed already; [`Error::Forked`], [`Error::OnClientThread`].
    pub fn close(&self) -> Result<()> {
        self.handle.check_may_wait()?;
        self.handle.close().wait()
    }
}

/// Writes the calls that send one request and wait for its reply.
macro_rules! blocking_calls {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty)?) -> $result:ty =
        $request:expr => $read:ident($($with:expr)?);)*) => {
        impl DiscoveryClient {
            $($(#[$doc])*
            pub fn $name(&self $(, $argument: $type)?) -> Result<$result> {
                self.handle.check_may_wait()?;
                Reply::read(&self.handle.call(&$request).wait()?)?.$read($($with)?)
            })*
        }
    };
}

with_calls!(blocking_calls);

impl DiscoveryClientBuilder {
    /// Makes the client. It connects in the background: the daemon may start later.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`]; [`Error::Transport`] and [`Error::Thread`] when the client cannot
    /// make a socket or start its thread.
    pub fn build(self) -> Result<DiscoveryClient> {
        self.start(ClientKind::Blocking).map(DiscoveryClient::from_handle)
    }
}

impl fmt::Debug for DiscoveryClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DiscoveryClient").field(self.handle.settings()).finish()
    }
}
