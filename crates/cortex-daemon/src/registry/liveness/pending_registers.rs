//! REGISTERs that would be refused, and wait until it is known whether the one who has the topic
//! still lives: a peer of the legacy protocol tries once and never again.

use std::time::{Duration, Instant};

use cortex_proto::TopicName;

use crate::peer::Process;
use crate::registry::PeerRequest;

/// How long a REGISTER may wait.
pub(in crate::registry) const MAX_REGISTER_WAIT: Duration = Duration::from_secs(1);
/// The most that wait, of one user and of all: those beyond are refused without a look.
pub(in crate::registry) const MAX_PER_USER: usize = 64;
pub(in crate::registry) const MAX: usize = 256;

/// Whether one that waits may go on waiting for another look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Patience {
    Left,
    Over,
}

/// A REGISTER that waits.
#[derive(Debug)]
pub(in crate::registry) struct PendingRegister {
    pub(in crate::registry) asked: PeerRequest,
    pub(in crate::registry) name: TopicName,
    /// The registration that stands against it.
    pub(in crate::registry) revision: u64,
    pub(in crate::registry) end: Instant,
    pub(in crate::registry) awaits: Awaits,
}

/// What it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Awaits {
    /// A look at the process of the present registration.
    Look(Process),
    /// A look at its endpoint.
    Probe,
}
