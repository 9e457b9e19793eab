//! REGISTERs that would be refused, and wait until it is known whether the one who has the topic
//! still lives: a peer of the legacy protocol tries once and never again.

use std::time::{Duration, Instant};

use cortex_proto::TopicName;

use super::PeerRequest;
use crate::peer::Process;

/// How long a REGISTER may wait.
pub(super) const MAX_REGISTER_WAIT: Duration = Duration::from_secs(1);
/// The most that wait, of one user and of all: those beyond are refused without a look.
pub(super) const MAX_PER_USER: usize = 64;
pub(super) const MAX: usize = 256;

/// Whether one that waits may go on waiting for another look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    Left,
    Over,
}

/// A REGISTER that waits.
#[derive(Debug)]
pub(super) struct PendingRegister {
    pub(super) asked: PeerRequest,
    pub(super) name: TopicName,
    /// The registration that stands against it.
    pub(super) revision: u64,
    pub(super) end: Instant,
    pub(super) awaits: Awaits,
}

/// What it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaits {
    /// A look at the process of the present registration.
    Look(Process),
    /// A look at its endpoint.
    Probe,
}
