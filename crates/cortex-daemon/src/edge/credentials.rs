//! The user and the process of a peer.

use std::net::IpAddr;
use std::os::fd::AsFd;

/// The kernel's record of the process that connected a Unix socket. Over TCP it records only an
/// address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// `None` when unknown. Two unknown users count as different.
    pub(crate) uid: Option<u32>,
    pub(crate) pid: Option<u32>,
    /// Whether the connection came over TCP from a loopback address: then the peer is in the
    /// daemon's network namespace.
    pub(crate) is_loopback: bool,
}

/// The uid that the kernel reports for a user without a number in the daemon's user namespace.
/// `None` on an ordinary host, where every user has a number, so that this uid is a user like any
/// other (`nobody`).
#[cfg(target_os = "linux")]
fn overflow_uid() -> Option<u32> {
    use std::fs::read_to_string;
    use std::sync::OnceLock;

    static OVERFLOW_UID: OnceLock<Option<u32>> = OnceLock::new();
    *OVERFLOW_UID.get_or_init(|| {
        let uid_map = read_to_string("/proc/self/uid_map").unwrap_or_default();
        let overflow_uid = read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
        (!maps_every_uid(&uid_map)).then(|| overflow_uid.trim().parse().unwrap_or(65_534))
    })
}

/// Whether a user namespace maps every uid to the same uid outside (`/proc/PID/uid_map`).
#[cfg(target_os = "linux")]
fn maps_every_uid(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

impl Credentials {
    #[cfg(target_os = "linux")]
    pub(super) fn of_peer(socket: &impl AsFd) -> Self {
        use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

        let Ok(credentials) = getsockopt(socket, PeerCredentials) else {
            return Self::default();
        };
        Self {
            uid: Some(credentials.uid()).filter(|uid| overflow_uid() != Some(*uid)),
            // The kernel reports 0 for a process of another pid namespace.
            pid: u32::try_from(credentials.pid()).ok().filter(|pid| *pid != 0),
            is_loopback: false,
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn of_peer(_socket: &impl AsFd) -> Self {
        Self::default()
    }

    /// The credentials of a TCP peer with this address.
    pub(super) fn of_address(address: IpAddr) -> Self {
        Self { is_loopback: address.to_canonical().is_loopback(), ..Self::default() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_overflow_uid_is_ambiguous_unless_every_uid_is_mapped() {
        assert!(maps_every_uid("         0          0 4294967295\n"));
        for map in [
            "",
            "0 1000 1\n",
            "0 100000 65536\n",
            "0 0 65536\n",
            "0 1000 1\n1 100000 65536\n",
            "0 0 4294967295\n1 1 1\n",
        ] {
            assert!(!maps_every_uid(map), "{map}");
        }
    }

    #[test]
    fn only_loopback_addresses_are_local() {
        for (address, is_loopback) in [
            ("127.0.0.1", true),
            ("127.1.2.3", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("192.168.1.2", false),
            ("fe80::1", false),
            ("::ffff:10.0.0.1", false),
        ] {
            let credentials = Credentials::of_address(address.parse().unwrap());
            assert_eq!(credentials.is_loopback, is_loopback, "{address}");
            assert_eq!((credentials.uid, credentials.pid), (None, None));
        }
    }
}
