//! The configuration of a daemon.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use crate::registry::Limits;

/// The longest path of a Unix socket, in bytes (`sun_path` less its final NUL).
pub const MAX_SOCKET_PATH: usize = 107;

/// The configuration of a daemon.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses to listen at; at least one.
    pub addresses: Vec<Address>,
    /// Where the daemon saves topics, so that they survive a restart.
    pub state: State,
    /// The access mode of the socket files. `None`: the process's umask decides.
    ///
    /// With a mode, the daemon binds its sockets in a short-lived thread that has its own umask.
    /// Where the system forbids that, such as in some containers, the umask of the whole process
    /// changes for the moment of the `bind`.
    pub socket_mode: Option<u32>,
    /// The most connections at once. `None`: as many as the limit of open descriptors allows.
    pub max_connections: Option<usize>,
    /// The limits on what clients can make the daemon store.
    pub limits: Limits,
    /// Whether clients over TCP, whose user is unknown, may shut down the daemon.
    pub allow_remote_shutdown: bool,
    /// The time between two probes of an endpoint whose owner the daemon cannot watch.
    pub probe_interval: Duration,
    /// How long the daemon keeps a topic whose endpoint it cannot reach; `None`: for ever.
    pub unreachable_after: Option<Duration>,
    /// The absolute path of a program that runs [`serve_probe_helper`](crate::serve_probe_helper)
    /// when its only argument is `--probe-helper`, such as `cortex-discovery`. The daemon starts it
    /// for everything that may hang: connections to Unix sockets with paths, and host names. `None`:
    /// the daemon cannot judge such endpoints.
    pub probe_helper: Option<PathBuf>,
}

/// Where a daemon saves topics, so that they survive a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nowhere: the topics are lost when the daemon ends.
    None,
    /// In this file. The daemon does not start if it cannot use the file; on a full disk it starts
    /// and refuses changes.
    File(PathBuf),
    /// In this file if the daemon can use it, otherwise nowhere. Then the daemon logs a warning.
    FileIfUsable(PathBuf),
}

impl Config {
    /// One address, no state file, no probe helper, the default limits.
    #[must_use]
    pub fn at(address: Address) -> Self {
        Self {
            addresses: vec![address],
            state: State::None,
            socket_mode: None,
            max_connections: None,
            limits: Limits::default(),
            allow_remote_shutdown: false,
            probe_interval: Duration::from_secs(5),
            unreachable_after: Some(Duration::from_secs(24 * 60 * 60)),
            probe_helper: None,
        }
    }
}

/// An address to listen at, in ZeroMQ's notation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `ipc://PATH`: a Unix socket in the file system.
    Ipc(PathBuf),
    /// `ipc://@NAME`: a Unix socket in Linux's abstract namespace.
    Abstract(String),
    /// `tcp://HOST:PORT`. With port 0 the system chooses a free port.
    Tcp {
        /// An IP address of this machine.
        host: IpAddr,
        /// The port.
        port: u16,
    },
}

/// Why a text is no address to listen at.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// Neither `ipc://` nor `tcp://`.
    #[error("`{0}` is not an address: write ipc://PATH or tcp://IP:PORT")]
    Scheme(String),
    /// `ipc://` without a file name.
    #[error("`{0}` has no file name: write ipc:///directory/name.sock")]
    NoFile(String),
    /// A path or name that is too long for a Unix socket.
    #[error(
        "the socket path {path} has {length} bytes; at most {MAX_SOCKET_PATH} are possible: choose \
         a shorter one"
    )]
    PathTooLong {
        /// The path.
        path: String,
        /// Its length in bytes.
        length: usize,
    },
    /// A host that is not an IP address.
    #[error(
        "`{0}` is not an IP address: write tcp://127.0.0.1:PORT, or tcp://*:PORT for all addresses \
         of this machine"
    )]
    Host(String),
    /// A missing port, or one that is not a number up to 65535.
    #[error("`{0}` has no port: write tcp://IP:PORT with a number up to 65535")]
    Port(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("ipc://") {
            parse_ipc(text, path)
        } else if let Some(rest) = text.strip_prefix("tcp://") {
            parse_tcp(text, rest)
        } else {
            Err(AddressError::Scheme(text.to_owned()))
        }
    }
}

fn parse_ipc(text: &str, path: &str) -> Result<Address, AddressError> {
    // For ZeroMQ `*` means a file with a random name, at which no client would find the daemon.
    let file = path.rsplit('/').next().unwrap_or_default();
    if matches!(file, "" | "*" | "." | "..") || path == "@" || path.contains('\0') {
        return Err(AddressError::NoFile(text.to_owned()));
    }
    if path.len() > MAX_SOCKET_PATH {
        return Err(AddressError::PathTooLong { path: path.to_owned(), length: path.len() });
    }
    Ok(match path.strip_prefix('@') {
        Some(name) => Address::Abstract(name.to_owned()),
        None => Address::Ipc(path.into()),
    })
}

fn parse_tcp(text: &str, rest: &str) -> Result<Address, AddressError> {
    let (host, port) = rest.rsplit_once(':').ok_or_else(|| AddressError::Port(text.to_owned()))?;
    let port = match port {
        "*" => 0,
        number => number.parse().map_err(|_| AddressError::Port(text.to_owned()))?,
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host = match bare {
        "*" => Ipv4Addr::UNSPECIFIED.into(),
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        ip => ip.parse().map_err(|_| AddressError::Host(host.to_owned()))?,
    };
    Ok(Address::Tcp { host, port })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipc(path) => write!(f, "ipc://{}", path.display()),
            Self::Abstract(name) => write!(f, "ipc://@{name}"),
            Self::Tcp { host, port } => {
                write!(f, "tcp://{}", std::net::SocketAddr::new(*host, *port))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Address, AddressError> {
        text.parse()
    }

    #[test]
    fn addresses_are_parsed_and_displayed() {
        for text in [
            "ipc:///tmp/cortex/discovery.sock",
            "ipc://relative.sock",
            "ipc://@name",
            "tcp://127.0.0.1:5555",
            "tcp://[::1]:5555",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        for (text, shown) in [
            ("tcp://*:5555", "tcp://0.0.0.0:5555"),
            ("tcp://localhost:*", "tcp://127.0.0.1:0"),
            ("tcp://::1:5555", "tcp://[::1]:5555"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn invalid_addresses_have_different_errors() {
        let reason = |text: &str| parse(text).unwrap_err();
        for text in ["", "/tmp/x.sock", "udp://1.2.3.4:5", "inproc://x", "IPC:///x"] {
            assert_eq!(reason(text), AddressError::Scheme(text.into()));
        }
        for text in ["ipc://", "ipc://*", "ipc://@", "ipc:///tmp/", "ipc:///tmp/.", "ipc:///a\0b"] {
            assert_eq!(reason(text), AddressError::NoFile(text.into()));
        }
        for text in ["tcp://127.0.0.1", "tcp://127.0.0.1:", "tcp://127.0.0.1:65536", "tcp://x:-1"] {
            assert_eq!(reason(text), AddressError::Port(text.into()));
        }
        for host in ["eth0", "example.org", "", "1.2.3"] {
            assert_eq!(reason(&format!("tcp://{host}:5555")), AddressError::Host(host.into()));
        }
    }

    #[test]
    fn a_path_may_have_107_bytes() {
        let path = |length: usize| format!("/{}", "p".repeat(length - 1));
        assert!(parse(&format!("ipc://{}", path(107))).is_ok());
        let (path, length) = (path(108), 108);
        let too_long = AddressError::PathTooLong { path: path.clone(), length };
        assert_eq!(parse(&format!("ipc://{path}")), Err(too_long));
    }
}
