//! The addresses of daemons, in ZeroMQ's notation.

mod error;
mod parser;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

pub use self::error::AddressError;
use crate::DEFAULT_DISCOVERY_ADDRESS;

/// The longest path of a Unix socket, in bytes: `sun_path` without its final NUL. ZeroMQ has the
/// same limit for `@NAME`.
pub const MAX_SOCKET_PATH: usize = 107;

/// Where a client connects to a daemon: `ipc://PATH`, `ipc://@NAME` or `tcp://HOST:PORT`.
///
/// The default is [`DEFAULT_DISCOVERY_ADDRESS`].
///
/// ```
/// use cortex_proto::{Address, ConnectTarget};
///
/// let address: Address = "tcp://[::1]:5550".parse()?;
/// assert_eq!(address.as_str(), "tcp://[::1]:5550");
/// assert!(matches!(address.target(), ConnectTarget::Ip(ip) if ip.port() == 5550));
///
/// let error = "tcp://robot.local".parse::<Address>().unwrap_err();
/// assert_eq!(error.to_string(), "the port is missing: write tcp://HOST:PORT");
/// # Ok::<(), cortex_proto::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    text: String,
    target: ConnectTarget,
}

/// What a client connects to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ConnectTarget {
    /// The path of a Unix socket. A relative one starts in the client's working directory.
    Path(PathBuf),
    /// The name of a Unix socket in Linux's abstract namespace, without the `@`.
    Abstract(String),
    /// An IP address and a TCP port from 1 to 65535.
    Ip(SocketAddr),
    /// A host name and a TCP port.
    HostName {
        /// The name for the system's resolver. An IPv6 address with a zone, such as
        /// `fe80::1%eth0`, is a name too: the resolver knows the zones.
        name: String,
        /// The port, from 1 to 65535.
        port: u16,
    },
}

impl Address {
    /// The address in its canonical form. ZeroMQ can connect to it; an IPv6 address needs the
    /// socket option `ZMQ_IPV6`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What the address names.
    #[must_use]
    pub fn target(&self) -> &ConnectTarget {
        &self.target
    }
}

impl Default for Address {
    fn default() -> Self {
        let text = DEFAULT_DISCOVERY_ADDRESS;
        Self {
            text: text.to_owned(),
            target: ConnectTarget::Path(text.trim_start_matches("ipc://").into()),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let target = parser::parse_target(text)?;
        let text = match &target {
            // The path and the name are parts of the text, without a change.
            ConnectTarget::Path(_) | ConnectTarget::Abstract(_) => text.to_owned(),
            ConnectTarget::Ip(ip) => format!("tcp://{ip}"),
            ConnectTarget::HostName { name, port } if name.contains(':') => {
                format!("tcp://[{name}]:{port}")
            }
            ConnectTarget::HostName { name, port } => format!("tcp://{name}:{port}"),
        };
        Ok(Self { text, target })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// Where a daemon listens: `ipc://PATH`, `ipc://@NAME` or `tcp://IP:PORT`.
///
/// The host is an IP address of this machine, `localhost` (127.0.0.1), or `*` for all IPv4 addresses
/// of this machine (0.0.0.0). With the port 0 or `*` the system chooses a free port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddress {
    text: String,
    target: ListenTarget,
}

/// What a daemon listens at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenTarget {
    /// The path of a Unix socket. A relative one starts in the daemon's working directory.
    Path(PathBuf),
    /// The name of a Unix socket in Linux's abstract namespace, without the `@`.
    Abstract(String),
    /// An IP address and a TCP port.
    Tcp(SocketAddr),
}

impl ListenAddress {
    /// The address in its canonical form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What the address names.
    #[must_use]
    pub fn target(&self) -> &ListenTarget {
        &self.target
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(ip: SocketAddr) -> Self {
        Self { text: format!("tcp://{ip}"), target: ListenTarget::Tcp(ip) }
    }
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match parser::parse_listen_target(text)? {
            ListenTarget::Tcp(ip) => Ok(ip.into()),
            target @ (ListenTarget::Path(_) | ListenTarget::Abstract(_)) => {
                Ok(Self { text: text.to_owned(), target })
            }
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}
