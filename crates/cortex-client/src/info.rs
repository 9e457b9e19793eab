//! Information about a daemon and its topics, from daemons that speak the extensions.

use std::time::Duration;

use cortex_proto::{EntryExt, TopicInfo};

/// What a daemon reports about itself. From a daemon of level 0, such as the Python reference, all
/// fields have their defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DaemonInfo {
    /// The level of the protocol extensions; 0 for none.
    pub level: u64,
    /// The daemon's name and version.
    pub server: Option<String>,
    /// The random number of the daemon's history. It changes when the daemon loses its history and
    /// after a reboot of the machine.
    pub epoch: Option<u64>,
    /// The number of the last change in this epoch.
    pub revision: Option<u64>,
    /// The daemon's process id.
    pub pid: Option<u64>,
    /// How long the daemon has been running, in whole milliseconds.
    pub uptime: Option<Duration>,
    /// How many topics are registered.
    pub topics: Option<u64>,
}

/// A topic, and the daemon's information about its registration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicDescription {
    /// The topic as its publisher registered it.
    pub info: TopicInfo,
    /// The owner, the age, the hold and the endpoint's state; `None` from a daemon of level 0.
    pub entry: Option<EntryExt>,
}
