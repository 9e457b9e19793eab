//! What a probe has found.

use cortex_proto::TopicName;

use crate::peer::EndpointListener;
use crate::registry::ProbeResult;

/// The number of a probe. It is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ProbeId(pub(super) u64);

/// What a probe has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProbeOutcome {
    pub(crate) result: ProbeResult,
    /// What listens there. `None`: the probe has no connection, or the kernel does not tell.
    pub(crate) listener: Option<EndpointListener>,
}

/// The answer to a request for a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProbeAnswer {
    pub(crate) name: TopicName,
    pub(crate) revision: u64,
    pub(crate) outcome: ProbeOutcome,
}

impl ProbeOutcome {
    /// A result, with the listener if the endpoint has one.
    pub(super) fn new(
        result: ProbeResult,
        listener: impl FnOnce() -> Option<EndpointListener>,
    ) -> Self {
        let is_served = matches!(result, ProbeResult::Alive | ProbeResult::Silent);
        Self { result, listener: if is_served { listener() } else { None } }
    }
}

impl From<ProbeResult> for ProbeOutcome {
    fn from(result: ProbeResult) -> Self {
        Self { result, listener: None }
    }
}
