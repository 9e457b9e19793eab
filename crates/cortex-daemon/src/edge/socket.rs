//! What the sockets that the daemon makes have in common.

use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Connections that may wait to be taken; the system may allow fewer.
pub(super) const BACKLOG: i32 = 4096;

/// A Unix socket that blocks nobody and that no child inherits.
pub(super) fn unix_socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}
