//! The settings of a client.

use std::time::Duration;

use cortex_proto::DEFAULT_DISCOVERY_ADDRESS;

#[cfg(feature = "tokio")]
use crate::AsyncDiscoveryClient;
use crate::DiscoveryClient;
use crate::error::Result;
use crate::protocol::retry::RetryPolicy;

/// The default of [`DiscoveryClientBuilder::timeout`].
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The default of [`DiscoveryClientBuilder::poll_interval`].
pub const DEFAULT_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The settings of a [`DiscoveryClient`]; each has a default.
#[derive(Clone, Debug)]
#[must_use]
pub struct DiscoveryClientBuilder {
    address: String,
    timeout: Duration,
    retries: u32,
    poll_interval: Duration,
}

impl Default for DiscoveryClientBuilder {
    fn default() -> Self {
        Self {
            address: DEFAULT_DISCOVERY_ADDRESS.to_owned(),
            timeout: DEFAULT_TIMEOUT,
            retries: 0,
            poll_interval: DEFAULT_POLL_INTERVAL,
        }
    }
}

impl DiscoveryClientBuilder {
    /// The daemon's ZeroMQ endpoint, such as `ipc:///tmp/cortex/discovery.sock` (the default is
    /// [`DEFAULT_DISCOVERY_ADDRESS`]) or `tcp://127.0.0.1:5550`.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    /// How long each attempt waits for an answer; the default is [`DEFAULT_TIMEOUT`]. With zero the
    /// client sends nothing, and every call ends with [`Error::NoAnswer`](crate::Error::NoAnswer).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How often the client sends a request again after an attempt without an answer; the default
    /// is 0. A call takes up to `(retries + 1) * timeout`.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// How often a [`wait_for_topic`](DiscoveryClient::wait_for_topic) or a
    /// [`watch`](DiscoveryClient::watch) polls a daemon that speaks only the legacy protocol; the
    /// default is [`DEFAULT_POLL_INTERVAL`].
    pub fn poll_interval(mut self, poll_interval: Duration) -> Self {
        self.poll_interval = poll_interval;
        self
    }

    /// Makes the client. It connects in the background: the daemon may start later.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress) for an address that ZeroMQ cannot
    /// connect to, [`Error::Transport`](crate::Error::Transport) when ZeroMQ cannot create a
    /// socket.
    pub fn build(self) -> Result<DiscoveryClient> {
        let policy = self.policy();
        DiscoveryClient::start(self.address, policy, self.poll_interval)
    }

    /// Makes an [`AsyncDiscoveryClient`]. It connects in the background: the daemon may start
    /// later.
    ///
    /// # Errors
    /// [`Error::NoRuntime`](crate::Error::NoRuntime) outside a tokio runtime; and those of
    /// [`build`](Self::build).
    ///
    /// # Panics
    /// Tokio panics when the runtime was built without I/O or without time.
    #[cfg(feature = "tokio")]
    pub fn build_async(self) -> Result<AsyncDiscoveryClient> {
        let policy = self.policy();
        AsyncDiscoveryClient::start(self.address, policy, self.poll_interval)
    }

    fn policy(&self) -> RetryPolicy {
        RetryPolicy { timeout: self.timeout, attempts: self.retries.saturating_add(1) }
    }
}
