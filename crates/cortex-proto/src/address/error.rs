//! Why a text is not an address.

use thiserror::Error;

use super::MAX_SOCKET_PATH;

/// Why a text is not an [`Address`](super::Address) or not a [`ListenAddress`](super::ListenAddress).
/// The message says what to write instead; it does not repeat the whole text.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The text does not begin with `ipc://` or `tcp://`.
    #[error("the transport is missing: write ipc://PATH, ipc://@NAME or tcp://HOST:PORT")]
    NoTransport,
    /// ZeroMQ may have this transport, but daemons do not.
    #[error(
        "the transport {transport:?} is not supported: write ipc://PATH, ipc://@NAME or \
         tcp://HOST:PORT"
    )]
    Transport {
        /// The text before `://`.
        transport: String,
    },
    /// The path after `ipc://` is empty, or names a directory.
    #[error("the socket path has no file name: write ipc:///directory/name.sock")]
    NoFileName,
    /// The file name is `*`. A ZeroMQ socket that listens there takes a random name, at which no
    /// client would find the daemon.
    #[error("ZeroMQ replaces the file name `*` by a random one: write ipc:///directory/name.sock")]
    WildcardFileName,
    /// The name after `ipc://@` is empty.
    #[error("the socket name is missing: write ipc://@NAME")]
    NoAbstractName,
    /// The path or name contains a NUL byte.
    #[error("a socket path cannot contain a NUL byte: write ipc:///directory/name.sock")]
    NulByte,
    /// The path or `@NAME` does not fit into the address of a Unix socket.
    #[error(
        "the socket path has {length} bytes, and at most {MAX_SOCKET_PATH} are possible: choose a \
         shorter one"
    )]
    PathTooLong {
        /// The length in bytes.
        length: usize,
    },
    /// The host is missing.
    #[error("the host is missing: write tcp://HOST:PORT")]
    NoHost,
    /// The text is neither a host name nor an IP address.
    #[error("{host:?} is neither a host name nor an IP address: write tcp://HOST:PORT")]
    Host {
        /// The text before the port.
        host: String,
    },
    /// The host `*` of a client's address.
    #[error(
        "`*` means all addresses of a machine, and only a daemon can listen there: write \
         tcp://HOST:PORT"
    )]
    WildcardHost,
    /// The host has a colon, as only IPv6 addresses have, but no brackets.
    #[error(
        "{host:?} has a colon, and an IPv6 address needs brackets: write tcp://[IPV6]:PORT, such as \
         tcp://[::1]:5550"
    )]
    NoBrackets {
        /// The text before the last colon.
        host: String,
    },
    /// A daemon listens at IP addresses, not at names of hosts or network interfaces.
    #[error(
        "{host:?} is not an IP address: write tcp://127.0.0.1:PORT, or tcp://*:PORT for all \
         addresses of this machine"
    )]
    ListenHost {
        /// The text before the port.
        host: String,
    },
    /// The port is missing.
    #[error("the port is missing: write tcp://HOST:PORT")]
    NoPort,
    /// The port is not a number in the range of TCP, or it is 0 in a client's address.
    #[error("{port:?} is not a port: write tcp://HOST:PORT with a number from 1 to 65535")]
    Port {
        /// The text after the last colon.
        port: String,
    },
}
