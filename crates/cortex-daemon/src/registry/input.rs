//! The registry's inputs: requests, and events outside the registry.

use std::time::Instant;

use cortex_proto::{DiscoveryRequest, TopicName};

use super::waiting_requests::WaitingRequests;
use crate::peer::{ConnectionId, EndpointListener, PeerIdentity, Process, ReplyTo};

/// Something that happened outside the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A peer has sent a request.
    Request(PeerRequest),
    /// A watched process has ended. Without effect for other processes.
    ProcessExited(Process),
    /// The daemon cannot watch a process. The registry judges its topics by probes of their
    /// endpoints.
    ProcessUnseen(Process),
    /// The daemon has checked a process, as [`Effects::check`](super::Effects::check) asked. If the
    /// process has ended, [`ProcessExited`](Self::ProcessExited) came before.
    ProcessChecked(Process),
    /// The daemon has probed an endpoint. Without effect if the topic was registered again since.
    EndpointProbed {
        /// The topic.
        name: TopicName,
        /// The revision of the registration that named the endpoint.
        revision: u64,
        /// What the probe found.
        result: ProbeResult,
        /// What listens there, as far as the kernel reports it.
        listener: Option<EndpointListener>,
    },
    /// Time has passed. Without effect when nothing is due.
    Tick {
        /// The users whose requests wait. The daemon need not know them while
        /// [`Registry::has_ended_lease`](super::Registry::has_ended_lease) is false.
        waiting: WaitingRequests,
    },
    /// A REQ peer has sent a new request: it takes the next reply for the reply to that one, so its
    /// waiting requests get none. The same follows when the new request comes as
    /// [`Request`](Self::Request); this input comes before results that would answer the old one.
    GaveUp(ConnectionId),
    /// A peer has closed its connection or is gone: it reads no more replies.
    Disconnected(ConnectionId),
    /// The daemon shuts down: it answers every request that waits.
    ShuttingDown,
    /// Time has passed in which the daemon read no requests: the machine or the daemon stood still.
    TimeGap,
}

/// A request, and the peer that sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRequest {
    /// Where the reply goes.
    pub reply_to: ReplyTo,
    /// The peer.
    pub peer: PeerIdentity,
    /// Whether the peer is a REQ socket: with a new request it gives up the one before.
    pub is_req: bool,
    /// The request. It is moved several times until its reply is made, so it is boxed.
    pub request: Result<Box<DiscoveryRequest>, UnreadableRequest>,
}

/// A request that the daemon cannot decode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableRequest {
    /// The reason, for the reply's message.
    pub problem: String,
    /// Whether the reply must have an extension.
    pub asks_for_ext: bool,
}

/// What a probe of an endpoint has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeResult {
    /// Nothing listens there: the connection was refused, or the socket's path does not exist.
    Dead,
    /// A listener accepts connections, but sent no ZMTP greeting in time, or its backlog is full.
    Silent,
    /// A ZeroMQ socket greeted.
    Alive,
    /// No TCP handshake in time, or the connection was closed before a greeting.
    Unreachable,
    /// The daemon cannot judge the endpoint.
    Unknown(UnknownReason),
}

/// Why the daemon cannot judge an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnknownReason {
    /// The daemon has no permission to connect to the socket.
    Permission,
    /// The address means something only in the owner's namespace, which is not the daemon's.
    Namespace,
    /// The host name cannot be resolved.
    HostName,
    /// Other processes cannot connect to such an address, or the daemon does not know it.
    Address,
    /// The probe itself failed, or could not run.
    Failure,
}

impl UnknownReason {
    /// The protocol's word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Permission => "no permission",
            Self::Namespace => "other namespace",
            Self::HostName => "unresolved host name",
            Self::Address => "address cannot be probed",
            Self::Failure => "probe failed",
        }
    }
}

/// The unit of `/proc/PID/stat`: 100 on all architectures but two that Rust does not support.
const TICKS_PER_SECOND: u64 = 100;

/// A point in time, on several clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    /// For deadlines: this clock never jumps.
    pub instant: Instant,
    /// For ages that outlive the daemon: ms since 1970.
    pub unix_ms: u64,
    /// For comparisons with the start time of a process: clock ticks since boot.
    pub boot_ticks: u64,
}

impl Timestamp {
    /// When the wall clock showed a time of this boot, in clock ticks since boot. Not before the
    /// true tick, unless the wall clock was set meanwhile.
    pub(super) fn boot_ticks_at(self, unix_ms: u64) -> u64 {
        let age_ms = self.unix_ms.saturating_sub(unix_ms);
        self.boot_ticks.saturating_sub(age_ms * TICKS_PER_SECOND / 1000)
    }

    /// The time since an instant, in ms.
    pub(super) fn ms_since(self, instant: Instant) -> u64 {
        let elapsed = self.instant.saturating_duration_since(instant).as_millis();
        u64::try_from(elapsed).unwrap_or(u64::MAX)
    }
}
