//! How a client is set up.

use std::time::Duration;

use cortex_proto::DEFAULT_DISCOVERY_ADDRESS;

#[cfg(feature = "tokio")]
use crate::AsyncDiscoveryClient;
use crate::DiscoveryClient;
use crate::error::Result;
use crate::exchange::RetryPolicy;

/// How long each attempt waits for an answer when nothing else is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The time between two questions of a wait or a watch, at a daemon that has to be asked again and
/// again, when nothing else is said.
pub const DEFAULT_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The settings of a [`DiscoveryClient`].
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

    /// How long each attempt waits for an answer; [`DEFAULT_TIMEOUT`] at first. With zero nothing
    /// is sent, and every call ends with [`Error::NoAnswer`](crate::Error::NoAnswer).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How often a request is sent again when no answer came, after the first attempt; 0 at first.
    /// A call takes up to `(retries + 1) * timeout`.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// The least time from one question to the next of a
    /// [`wait_for_topic`](DiscoveryClient::wait_for_topic) or a [`watch`](DiscoveryClient::watch), at
    /// a daemon that speaks the legacy protocol alone: it has to be asked again and again.
    /// [`DEFAULT_POLL_INTERVAL`] at first.
    pub fn poll_interval(mut self, poll_interval: Duration) -> Self {
        self.poll_interval = poll_interval;
        self
    }

    /// Makes the client. It connects in the background: a daemon need not be there yet.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress) for an address that ZeroMQ cannot connect to,
    /// [`Error::Transport`](crate::Error::Transport) when no socket can be made.
    pub fn build(self) -> Result<DiscoveryClient> {
        let policy = self.policy();
        DiscoveryClient::start(self.address, policy, self.poll_interval)
    }

    /// Makes an [`AsyncDiscoveryClient`]. It connects in the background: a daemon need not be
    /// there yet.
    ///
    /// # Errors
    /// [`Error::NoRuntime`](crate::Error::NoRuntime) when this is not called on a tokio runtime;
    /// and as [`build`](Self::build).
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
