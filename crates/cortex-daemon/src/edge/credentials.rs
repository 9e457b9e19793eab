//! The user and the process of a peer.

use std::os::fd::AsFd;

/// The kernel's record of the process that connected a Unix socket. TCP has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// `None` when unknown. Two unknown users count as different.
    pub(crate) uid: Option<u32>,
    pub(crate) pid: Option<u32>,
}

/// The uid of all users that have none in the daemon's user namespace.
#[cfg(target_os = "linux")]
const OVERFLOW_UID: u32 = 65_534;

impl Credentials {
    #[cfg(target_os = "linux")]
    pub(super) fn of_peer(socket: &impl AsFd) -> Self {
        use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

        let Ok(credentials) = getsockopt(socket, PeerCredentials) else {
            return Self::default();
        };
        Self {
            uid: Some(credentials.uid()).filter(|uid| *uid != OVERFLOW_UID),
            // The kernel reports 0 for a process of another pid namespace.
            pid: u32::try_from(credentials.pid()).ok().filter(|pid| *pid != 0),
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn of_peer(_socket: &impl AsFd) -> Self {
        Self::default()
    }

    /// Whether the peer's user is the daemon's own user or root.
    pub(super) fn is_trusted(self) -> bool {
        self.uid.is_some_and(|uid| uid == 0 || uid == own_uid())
    }
}

/// The uid of the daemon's user.
pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}
