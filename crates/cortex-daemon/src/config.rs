//! The configuration of a daemon.

use std::path::PathBuf;
use std::time::Duration;

use cortex_proto::ListenAddress;

use crate::registry::Limits;

/// The configuration of a daemon.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses to listen at; at least one.
    pub addresses: Vec<ListenAddress>,
    /// Where the daemon saves topics, so that they survive a restart.
    pub state: State,
    /// The access mode of the socket files. `None`: the process's umask decides.
    ///
    /// With a mode, the daemon binds its sockets in a short-lived thread that has its own umask.
    /// Where the system forbids that, such as in some containers, the umask of the whole process
    /// changes for the moment of the `bind`.
    pub socket_mode: Option<u32>,
    /// The most connections at once. `None`: as many as the limit of open descriptors allows.
    pub max_connections: Option<usize>,
    /// The limits on what clients can make the daemon store.
    pub limits: Limits,
    /// Whether clients over TCP, whose user is unknown, may shut down the daemon.
    pub allow_remote_shutdown: bool,
    /// The time between two probes of an endpoint whose owner the daemon cannot watch.
    pub probe_interval: Duration,
    /// How long the daemon keeps a topic whose endpoint it cannot reach; `None`: for ever.
    pub unreachable_after: Option<Duration>,
    /// The absolute path of a program that runs [`serve_probe_helper`](crate::serve_probe_helper)
    /// when its only argument is `--probe-helper`, such as `cortex-discovery`. The daemon starts it
    /// for everything that may hang: connections to Unix sockets with paths, and host names. `None`:
    /// the daemon cannot judge such endpoints.
    pub probe_helper: Option<PathBuf>,
}

/// Where a daemon saves topics, so that they survive a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nowhere: the topics are lost when the daemon ends.
    None,
    /// In this file. The daemon does not start if it cannot use the file; on a full disk it starts
    /// and refuses changes.
    File(PathBuf),
    /// In this file if the daemon can use it, otherwise nowhere. Then the daemon logs a warning.
    FileIfUsable(PathBuf),
}

impl Config {
    /// One address, no state file, no probe helper, the default limits.
    #[must_use]
    pub fn at(address: ListenAddress) -> Self {
        Self {
            addresses: vec![address],
            state: State::None,
            socket_mode: None,
            max_connections: None,
            limits: Limits::default(),
            allow_remote_shutdown: false,
            probe_interval: Duration::from_secs(5),
            unreachable_after: Some(Duration::from_secs(24 * 60 * 60)),
            probe_helper: None,
        }
    }
}
