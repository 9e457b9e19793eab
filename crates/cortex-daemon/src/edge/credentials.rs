//! Who a peer is.

use std::os::fd::AsFd;

/// A user's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum User {
    /// The daemon's own user, or root.
    Trusted,
    /// Another user of this machine.
    Other(u32),
    /// A peer over TCP, or from a user namespace that this machine's numbers don't reach.
    Unknown,
}

/// What an unmapped user of another namespace looks like.
#[cfg(target_os = "linux")]
const OVERFLOW_UID: u32 = 65_534;

impl User {
    /// The user at the other end of a Unix socket, as the kernel noted it at connect.
    #[cfg(target_os = "linux")]
    pub(super) fn of_peer(socket: &impl AsFd) -> Self {
        use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

        let Ok(credentials) = getsockopt(socket, PeerCredentials) else {
            return Self::Unknown;
        };
        match credentials.uid() {
            OVERFLOW_UID => Self::Unknown,
            uid if uid == 0 || uid == rustix::process::geteuid().as_raw() => Self::Trusted,
            uid => Self::Other(uid),
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn of_peer(_socket: &impl AsFd) -> Self {
        Self::Unknown
    }
}
