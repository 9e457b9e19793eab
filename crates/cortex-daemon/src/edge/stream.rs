//! A connected socket, Unix or TCP.

use std::io::{self, IoSlice, Read, Write};

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry as PollRegistry, Token};

use super::tcp_options;

#[derive(Debug)]
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Unix(stream) => stream,
            Self::Tcp(stream) => stream,
        }
    }

    pub(super) fn register(
        &mut self,
        poll_registry: &PollRegistry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        poll_registry.register(self.source(), token, interest)
    }

    pub(super) fn reregister(
        &mut self,
        poll_registry: &PollRegistry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        poll_registry.reregister(self.source(), token, interest)
    }

    pub(super) fn deregister(&mut self, poll_registry: &PollRegistry) -> io::Result<()> {
        poll_registry.deregister(self.source())
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }

    /// Whether bytes have come that were not read.
    pub(super) fn has_input(&self) -> bool {
        let count = match self {
            Self::Unix(stream) => rustix::io::ioctl_fionread(stream),
            Self::Tcp(stream) => rustix::io::ioctl_fionread(stream),
        };
        count.is_ok_and(|count| count > 0)
    }

    /// Notes whether the connection takes bytes: see [`tcp_options::limit_unacknowledged`].
    pub(super) fn set_blocked(&self, is_blocked: bool) {
        if let Self::Tcp(stream) = self {
            tcp_options::limit_unacknowledged(stream, !is_blocked);
        }
    }

    pub(super) fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// The inode of the socket.
    pub(super) fn inode(&self) -> io::Result<u64> {
        let stat = match self {
            Self::Unix(stream) => rustix::fs::fstat(stream),
            Self::Tcp(stream) => rustix::fs::fstat(stream),
        };
        Ok(stat?.st_ino)
    }

    pub(super) fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write_vectored(slices),
            Self::Tcp(stream) => stream.write_vectored(slices),
        }
    }
}
