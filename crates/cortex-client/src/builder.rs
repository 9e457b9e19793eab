//! The settings of a client.

use std::time::Duration;

use cortex_proto::DEFAULT_DISCOVERY_ADDRESS;

use crate::driver::{ClientKind, Handle, Settings};
use crate::error::{Error, Result};
use crate::protocol::request::RetryPolicy;

/// The default of [`DiscoveryClientBuilder::timeout`].
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The default of [`DiscoveryClientBuilder::poll_interval`].
pub const DEFAULT_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The shortest interval between two queries of a legacy daemon.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// The settings of a [`DiscoveryClient`](crate::DiscoveryClient) or an
/// [`AsyncDiscoveryClient`](crate::AsyncDiscoveryClient); each has a default.
#[derive(Clone, Debug)]
#[must_use]
pub struct DiscoveryClientBuilder {
    address: String,
    timeout: Duration,
    retries: u32,
    poll_interval: Duration,
    fail_fast: bool,
}

impl Default for DiscoveryClientBuilder {
    fn default() -> Self {
        Self {
            address: DEFAULT_DISCOVERY_ADDRESS.to_owned(),
            timeout: DEFAULT_TIMEOUT,
            retries: 0,
            poll_interval: DEFAULT_POLL_INTERVAL,
            fail_fast: false,
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

    /// How often a [`wait_for_topic`](crate::DiscoveryClient::wait_for_topic) or a
    /// [`watch`](crate::DiscoveryClient::watch) polls a daemon that speaks only the legacy protocol; the
    /// default is [`DEFAULT_POLL_INTERVAL`].
    pub fn poll_interval(mut self, poll_interval: Duration) -> Self {
        self.poll_interval = poll_interval;
        self
    }

    /// Whether a call ends at once with [`Error::Unreachable`] when the client knows that no daemon
    /// is reachable: no process listens at the address, or the host name cannot be resolved. The
    /// default is false: then a call goes on trying until its timeout, and the daemon may start
    /// meanwhile. Waits, watches and advertisements go on trying in any case.
    pub fn fail_fast(mut self, fail_fast: bool) -> Self {
        self.fail_fast = fail_fast;
        self
    }

    /// Starts the driver of a client.
    pub(crate) fn start(self, kind: ClientKind) -> Result<Handle> {
        let address = self
            .address
            .parse()
            .map_err(|reason| Error::InvalidAddress { address: self.address.clone(), reason })?;
        let attempts = self.retries.saturating_add(1);
        let settings = Settings {
            address,
            policy: RetryPolicy { timeout: self.timeout, attempts },
            poll_interval: self.poll_interval.max(MIN_POLL_INTERVAL),
            fail_fast: self.fail_fast,
        };
        Handle::start(settings, kind)
    }
}
