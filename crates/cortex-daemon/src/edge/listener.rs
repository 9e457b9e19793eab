//! Listening sockets.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use cortex_proto::{ListenAddress, ListenTarget};
use mio::event::Source;
use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry as PollRegistry, Token};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use thiserror::Error;

use super::clock::now;
use super::credentials::Credentials;
#[cfg(target_os = "linux")]
use super::served::server_at;
use super::socket::{BACKLOG, unix_socket};
use super::socket_file::{SocketFile, SocketFileError};
use super::stop::StopHandle;
use super::stream::Stream;
use super::tcp_options;

/// Why the daemon cannot listen at an address.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Another daemon listens there.
    #[error("a daemon already runs at {address}{}", in_parentheses(*pid))]
    AlreadyRuns {
        /// The address.
        address: ListenAddress,
        /// The other daemon's process, if the system tells.
        pid: Option<u32>,
    },
    /// Another program, maybe a daemon, listens there.
    #[error(
        "another program listens at {address}{}: stop it, or choose another address",
        in_parentheses(*pid)
    )]
    InUse {
        /// The address.
        address: ListenAddress,
        /// The other program's process, if the system tells.
        pid: Option<u32>,
    },
    /// The daemon cannot create its socket file.
    #[error(transparent)]
    SocketFile(SocketFileError),
    /// Another error of the system.
    #[error("cannot listen at {address}")]
    System {
        /// The address.
        address: ListenAddress,
        /// The error.
        source: io::Error,
    },
}

/// A listening socket and its socket file, if it has one.
#[derive(Debug)]
pub(crate) struct Listener {
    address: ListenAddress,
    socket: ListenSocket,
    file: Option<SocketFile>,
    /// Whether connections may wait to be accepted. The poll reports only new ones.
    pub(super) may_have_more: bool,
    /// Before the oldest of them can have come.
    pub(super) ready_since: Instant,
}

#[derive(Debug)]
enum ListenSocket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    pub(crate) fn bind(
        address: &ListenAddress,
        mode: Option<u32>,
        stop: &StopHandle,
    ) -> Result<Self, ListenError> {
        let failed = |source: io::Error| {
            let address = address.clone();
            if source.kind() == io::ErrorKind::AddrInUse {
                let pid = abstract_server(&address);
                ListenError::InUse { address, pid }
            } else {
                ListenError::System { address, source }
            }
        };
        let mut bound = address.clone();
        let (socket, file) = match address.target() {
            ListenTarget::Path(path) => {
                let (file, listener) = SocketFile::create(path, mode, stop).map_err(|error| {
                    if let SocketFileError::AlreadyRuns { pid, .. } = error {
                        ListenError::AlreadyRuns { address: address.clone(), pid }
                    } else {
                        ListenError::SocketFile(error)
                    }
                })?;
                (ListenSocket::Unix(UnixListener::from_std(listener)), Some(file))
            }
            ListenTarget::Abstract(name) => {
                let listener = listen_abstract(name).map_err(failed)?;
                (ListenSocket::Unix(UnixListener::from_std(listener)), None)
            }
            ListenTarget::Tcp(ip) => {
                let listener = listen_tcp(*ip).map_err(failed)?;
                bound = listener.local_addr().map_err(failed)?.into();
                (ListenSocket::Tcp(TcpListener::from_std(listener)), None)
            }
        };
        Ok(Self { address: bound, socket, file, may_have_more: true, ready_since: now() })
    }

    /// The address, with the port that the system has chosen.
    pub(crate) fn address(&self) -> &ListenAddress {
        &self.address
    }

    pub(crate) fn register(
        &mut self,
        poll_registry: &PollRegistry,
        token: Token,
    ) -> io::Result<()> {
        let source: &mut dyn Source = match &mut self.socket {
            ListenSocket::Unix(listener) => listener,
            ListenSocket::Tcp(listener) => listener,
        };
        poll_registry.register(source, token, Interest::READABLE)
    }

    /// Notes that connections wait to be accepted, which have come since `last_poll`.
    pub(crate) fn mark_ready(&mut self, last_poll: Instant) {
        if !self.may_have_more {
            (self.may_have_more, self.ready_since) = (true, last_poll);
        }
    }

    /// Before the oldest connection that may wait to be accepted can have come.
    pub(crate) fn ready_since(&self) -> Option<Instant> {
        self.may_have_more.then_some(self.ready_since)
    }

    /// Whether connections may be waiting.
    pub(crate) fn is_ready(&self) -> bool {
        self.may_have_more
    }

    /// The path of the socket file, if it no longer leads to this socket.
    pub(crate) fn lost_file(&self) -> Option<&std::path::Path> {
        self.file.as_ref().filter(|file| file.is_lost()).map(SocketFile::path)
    }

    /// Closes the socket. A connection attempt is refused from now on. The socket file, if the
    /// listener has one, stays and stays locked until the returned value is dropped.
    pub(crate) fn close(self) -> Option<SocketFile> {
        self.file
    }

    /// Accepts one connection.
    pub(super) fn accept(&self) -> io::Result<(Stream, Credentials)> {
        match &self.socket {
            ListenSocket::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                let credentials = Credentials::of_peer(&stream);
                Ok((Stream::Unix(stream), credentials))
            }
            ListenSocket::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                tcp_options::set(&stream);
                Ok((Stream::Tcp(stream), Credentials::of_address(peer.ip())))
            }
        }
    }
}

fn in_parentheses(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// The process that listens at an abstract address.
#[cfg(target_os = "linux")]
fn abstract_server(address: &ListenAddress) -> Option<u32> {
    let ListenTarget::Abstract(name) = address.target() else { return None };
    let address = rustix::net::SocketAddrUnix::new_abstract_name(name.as_bytes()).ok()?;
    server_at(&address).ok()??.pid
}

#[cfg(not(target_os = "linux"))]
fn abstract_server(_address: &ListenAddress) -> Option<u32> {
    None
}

fn listen_abstract(name: &str) -> io::Result<std::os::unix::net::UnixListener> {
    #[cfg(target_os = "linux")]
    {
        let address = rustix::net::SocketAddrUnix::new_abstract_name(name.as_bytes())?;
        let socket = unix_socket()?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(socket.into())
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = name;
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn listen_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    // A restarted daemon need not wait for the TIME_WAIT of earlier connections.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}
