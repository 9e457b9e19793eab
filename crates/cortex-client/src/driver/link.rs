//! The client's connection: when to make it, to which address, and why that fails.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use cortex_proto::{Address, ConnectTarget};
use tracing::debug;

use super::socket::{ConnectionEvent, DealerSocket};
use crate::error::{ConnectError, Result};
use crate::protocol::backoff::ReconnectBackoff;

/// The longest pause between two connections, so that the client finds a restarted daemon soon.
const MAX_PAUSE: Duration = Duration::from_millis(250);
/// The time after which a host name counts as one that cannot be resolved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a host name that cannot be resolved, which costs a query to a name server.
const RESOLVE_PAUSE: Duration = Duration::from_secs(1);
/// The shortest time between two probes for the cause of a failure.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The connection, and what is known about it.
pub(super) struct Link {
    address: Address,
    state: LinkState,
    backoff: ReconnectBackoff,
    /// The addresses of the host name, and those of them that are not tried yet.
    resolved: Vec<SocketAddr>,
    untried: VecDeque<SocketAddr>,
    cause: Option<ConnectError>,
    /// A connection has failed since the last probe.
    needs_probe: bool,
    probed_at: Option<Instant>,
    is_probing: bool,
    last_received: Option<Instant>,
}

enum LinkState {
    /// No connection before this time.
    Down {
        until: Option<Instant>,
    },
    /// A helper thread resolves the host name. `is_overdue`: it takes longer than it may.
    Resolving {
        since: Instant,
        is_overdue: bool,
    },
    Connecting(DealerSocket),
    Up {
        socket: DealerSocket,
        since: Instant,
    },
}

/// What the driver has to do for the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkStep {
    None,
    /// Resolve the host name on a helper thread, and pass the result to [`Link::resolved`].
    Resolve,
    /// Find out on a helper thread why the connection failed, and pass the result to
    /// [`Link::probed`].
    Probe,
    /// The host name could not be resolved in time.
    Overdue,
}

impl Link {
    pub(super) fn new(address: Address) -> Self {
        Self {
            address,
            state: LinkState::Down { until: None },
            backoff: ReconnectBackoff::default(),
            resolved: Vec::new(),
            untried: VecDeque::new(),
            cause: None,
            needs_probe: false,
            probed_at: None,
            is_probing: false,
            last_received: None,
        }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn resolved_addresses(&self) -> &[SocketAddr] {
        &self.resolved
    }

    /// Why the last attempt to connect failed, if it is known.
    pub(super) fn cause(&self) -> Option<&ConnectError> {
        self.cause.as_ref()
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, LinkState::Up { .. })
    }

    /// Whether an attempt to connect has failed, and the next one waits.
    pub(super) fn is_down(&self) -> bool {
        matches!(self.state, LinkState::Down { until: Some(_) })
    }

    /// Whether the resolver takes longer than it may.
    pub(super) fn is_overdue(&self) -> bool {
        matches!(self.state, LinkState::Resolving { is_overdue: true, .. })
    }

    pub(super) fn up_since(&self) -> Option<Instant> {
        match self.state {
            LinkState::Up { since, .. } => Some(since),
            LinkState::Down { .. } | LinkState::Resolving { .. } | LinkState::Connecting(_) => None,
        }
    }

    pub(super) fn last_received(&self) -> Option<Instant> {
        self.last_received
    }

    pub(super) fn socket(&mut self) -> Option<&mut DealerSocket> {
        match &mut self.state {
            LinkState::Up { socket, .. } | LinkState::Connecting(socket) => Some(socket),
            LinkState::Down { .. } | LinkState::Resolving { .. } => None,
        }
    }

    /// Connects when it is time. Spurious calls change nothing.
    ///
    /// # Errors
    /// [`Error::Transport`](crate::Error::Transport).
    pub(super) fn step(&mut self, wants_connection: bool, now: Instant) -> Result<LinkStep> {
        match self.state {
            LinkState::Down { until }
                if wants_connection && until.is_none_or(|until| until <= now) =>
            {
                return self.connect(now);
            }
            LinkState::Resolving { since, is_overdue: false }
                if now.saturating_duration_since(since) >= RESOLVE_TIMEOUT =>
            {
                self.state = LinkState::Resolving { since, is_overdue: true };
                let name = self.host_name().unwrap_or_default().to_owned();
                let reason = format!("the resolver has not answered for {RESOLVE_TIMEOUT:?}");
                self.cause = Some(ConnectError::HostName { name, reason });
                return Ok(LinkStep::Overdue);
            }
            LinkState::Down { .. }
            | LinkState::Resolving { .. }
            | LinkState::Connecting(_)
            | LinkState::Up { .. } => {}
        }
        let is_due =
            self.probed_at.is_none_or(|at| now.saturating_duration_since(at) >= PROBE_INTERVAL);
        let is_unexplained = self.is_down() && self.needs_probe && !self.is_probing;
        if wants_connection && is_unexplained && is_due {
            self.is_probing = true;
            self.needs_probe = false;
            self.probed_at = Some(now);
            return Ok(LinkStep::Probe);
        }
        Ok(LinkStep::None)
    }

    /// When to call [`step`](Self::step) again.
    pub(super) fn deadline(&self, wants_connection: bool) -> Option<Instant> {
        match self.state {
            LinkState::Down { until } if wants_connection => until,
            LinkState::Resolving { since, is_overdue: false } => Some(since + RESOLVE_TIMEOUT),
            LinkState::Down { .. }
            | LinkState::Resolving { .. }
            | LinkState::Connecting(_)
            | LinkState::Up { .. } => None,
        }
    }

    fn host_name(&self) -> Option<&str> {
        match self.address.target() {
            ConnectTarget::HostName { name, .. } => Some(name),
            ConnectTarget::Path(_) | ConnectTarget::Abstract(_) | ConnectTarget::Ip(_) => None,
        }
    }

    fn connect(&mut self, now: Instant) -> Result<LinkStep> {
        let endpoint = if self.host_name().is_none() {
            self.address.as_str().to_owned()
        } else if let Some(address) = self.untried.pop_front() {
            format!("tcp://{address}")
        } else {
            self.state = LinkState::Resolving { since: now, is_overdue: false };
            return Ok(LinkStep::Resolve);
        };
        match DealerSocket::open(&endpoint) {
            Ok(socket) => {
                self.state = LinkState::Connecting(socket);
                Ok(LinkStep::None)
            }
            Err(error) => {
                self.pause(now);
                Err(error)
            }
        }
    }

    /// The helper thread has resolved the host name.
    pub(super) fn resolved(
        &mut self,
        resolved: std::result::Result<Vec<SocketAddr>, ConnectError>,
        now: Instant,
    ) {
        if !matches!(self.state, LinkState::Resolving { .. }) {
            return;
        }
        match resolved {
            Ok(addresses) => {
                self.untried = addresses.iter().copied().collect();
                self.resolved = addresses;
                self.cause = None;
                self.state = LinkState::Down { until: None };
            }
            Err(cause) => {
                self.cause = Some(cause);
                self.state = LinkState::Down { until: Some(now + RESOLVE_PAUSE) };
            }
        }
    }

    /// The helper thread has found out why the connection failed.
    pub(super) fn probed(&mut self, cause: Option<ConnectError>) {
        self.is_probing = false;
        if !self.is_up() {
            self.cause = cause;
        }
    }

    /// The next event of the connection. After [`ConnectionEvent::Lost`] there is none any more.
    pub(super) fn next_event(&mut self, now: Instant) -> Option<ConnectionEvent> {
        let event = self.socket()?.next_event()?;
        match event {
            ConnectionEvent::Up => {
                let connecting =
                    std::mem::replace(&mut self.state, LinkState::Down { until: None });
                if let LinkState::Connecting(socket) = connecting {
                    debug!(address = self.address.as_str(), "connected");
                    self.state = LinkState::Up { socket, since: now };
                }
                self.cause = None;
                self.probed_at = None;
            }
            ConnectionEvent::Reply { .. } => self.last_received = Some(now),
            ConnectionEvent::Lost => self.disconnect(now),
        }
        Some(event)
    }

    /// Drops the connection. The next one follows after a pause.
    pub(super) fn disconnect(&mut self, now: Instant) {
        debug!(address = self.address.as_str(), was_up = self.is_up(), "the connection is lost");
        self.needs_probe = true;
        if !self.untried.is_empty() && !self.is_up() {
            // The host has another address.
            self.state = LinkState::Down { until: Some(now) };
        } else {
            self.pause(now);
        }
    }

    fn pause(&mut self, now: Instant) {
        let pause = self.backoff.pause(now).min(MAX_PAUSE);
        self.state = LinkState::Down { until: Some(now + pause) };
    }
}
