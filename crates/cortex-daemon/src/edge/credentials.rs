//! Who a peer is.

use std::os::fd::AsFd;

/// What the kernel noted of a Unix socket's peer when it connected. Over TCP it notes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// `None` when unknown: an unknown user is nobody's equal.
    pub(crate) uid: Option<u32>,
    pub(crate) pid: Option<u32>,
}

/// What a user looks like who has no number in our user namespace.
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
            // 0 is a process of another pid namespace.
            pid: u32::try_from(credentials.pid()).ok().filter(|pid| *pid != 0),
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn of_peer(_socket: &impl AsFd) -> Self {
        Self::default()
    }

    /// Whether it is the daemon's own user, or root.
    pub(super) fn is_trusted(self) -> bool {
        self.uid.is_some_and(|uid| uid == 0 || uid == own_uid())
    }
}

/// The daemon's own user.
pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}
