//! What a daemon tells about itself and its topics.

use std::time::Duration;

use cortex_proto::{EntryExt, TopicInfo};

/// What a daemon says of itself. A daemon of level 0, such as the Python reference, says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DaemonInfo {
    /// The level of the protocol's extensions that it speaks; 0 for none.
    pub level: u64,
    /// Its name and version.
    pub server: Option<String>,
    /// The number of its history, which changes when history is lost and at a new boot.
    pub epoch: Option<u64>,
    /// How many changes there have been in this epoch.
    pub revision: Option<u64>,
    /// Its process.
    pub pid: Option<u64>,
    /// How long it has been running, to the millisecond.
    pub uptime: Option<Duration>,
    /// How many topics there are.
    pub topics: Option<u64>,
}

/// A topic, and what the daemon knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicDescription {
    /// The topic as its publisher registered it.
    pub info: TopicInfo,
    /// Who registered it, when, and what keeps it; `None` from a daemon of level 0.
    pub entry: Option<EntryExt>,
}
