//! A check whether a program listens at a Unix socket.

use rustix::io::Errno;
use rustix::net::SocketAddrUnix;

use super::credentials::Credentials;
use super::socket::unix_socket;

/// A program that listens at a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// The process that called `listen`. `None` where the system does not tell.
    pub(super) pid: Option<u32>,
}

/// The program that listens at an address, found out by connecting.
pub(super) fn server_at(address: &SocketAddrUnix) -> Result<Option<Server>, Errno> {
    let socket = unix_socket()?;
    match rustix::net::connect(&socket, address) {
        Ok(()) => Ok(Some(Server { pid: Credentials::of_peer(&socket).pid })),
        // A full backlog: the program listens, but does not accept fast enough.
        Err(Errno::AGAIN) => Ok(Some(Server { pid: None })),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}
