//! Creation of sockets.

use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// The most connections that wait to be accepted; the system may allow fewer.
pub(super) const BACKLOG: i32 = 4096;

/// A new Unix socket, nonblocking and closed on exec.
pub(super) fn unix_socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}
