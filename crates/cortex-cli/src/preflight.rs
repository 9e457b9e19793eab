//! A check, before the first request, that a process listens at the daemon's address. ZeroMQ does
//! not report a missing daemon: it tries to connect until the timeout.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use cortex_client::{Address, ConnectTarget};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

use crate::error::{CliError, Kind};
use crate::escape::shell_quote;

/// The result of a connection attempt.
#[derive(Debug)]
pub(crate) enum Reachability {
    /// A process listens there.
    Listening,
    /// Not checked: only `ZeroMQ` resolves host names.
    Unknown,
    /// The socket file does not exist.
    Missing,
    /// No process listens at the socket file or port.
    Refused,
    /// This user has no permission to connect.
    PermissionDenied,
    /// The file is not a socket.
    NotASocket,
    /// The socket is not a stream socket, as `ZeroMQ` uses.
    WrongSocketType,
    /// The host did not answer in time.
    TimedOut,
    /// Any other error.
    Failed(io::Error),
}

/// Fails if no process listens at the address. The check of a socket file takes no time, the check
/// of a host takes at most `timeout`.
pub(crate) fn check(address: &Address, timeout: Duration) -> Result<(), CliError> {
    unreachable_error(address, &try_connect(address, timeout), timeout).map_or(Ok(()), Err)
}

/// Connects, and closes the connection at once.
pub(crate) fn try_connect(address: &Address, timeout: Duration) -> Reachability {
    match address.target() {
        ConnectTarget::Path(path) => try_path(path),
        ConnectTarget::Abstract(name) => try_abstract(name),
        ConnectTarget::Ip(host) => try_tcp(host, timeout),
        ConnectTarget::HostName { .. } => Reachability::Unknown,
    }
}

fn try_path(path: &Path) -> Reachability {
    match SocketAddrUnix::new(path).and_then(|socket| connect_unix(&socket)) {
        // The system reports a plain file in the same way as a socket without a listener.
        Err(Errno::CONNREFUSED) if is_other_file_type(path) => Reachability::NotASocket,
        connected => reachability_of(connected),
    }
}

fn is_other_file_type(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::metadata(path).is_ok_and(|file| !file.file_type().is_socket())
}

#[cfg(target_os = "linux")]
fn try_abstract(name: &str) -> Reachability {
    reachability_of(
        SocketAddrUnix::new_abstract_name(name.as_bytes()).and_then(|socket| connect_unix(&socket)),
    )
}

#[cfg(not(target_os = "linux"))]
fn try_abstract(_name: &str) -> Reachability {
    Reachability::Unknown
}

fn connect_unix(socket: &SocketAddrUnix) -> rustix::io::Result<()> {
    // Not every Unix takes the flags of a new socket as arguments. Close-on-exec is not needed,
    // because this process starts no other process.
    let socket_fd = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::ioctl_fionbio(&socket_fd, true)?;
    rustix::net::connect(&socket_fd, socket)
}

fn reachability_of(connected: rustix::io::Result<()>) -> Reachability {
    match connected {
        // AGAIN: the backlog is full, so a process listens there.
        Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS | Errno::INTR) => Reachability::Listening,
        Err(Errno::NOENT | Errno::NOTDIR) => Reachability::Missing,
        Err(Errno::CONNREFUSED) => Reachability::Refused,
        Err(Errno::ACCESS | Errno::PERM) => Reachability::PermissionDenied,
        Err(Errno::PROTOTYPE) => Reachability::WrongSocketType,
        Err(errno) => Reachability::Failed(errno.into()),
    }
}

fn try_tcp(host: &SocketAddr, timeout: Duration) -> Reachability {
    if timeout.is_zero() {
        return Reachability::TimedOut;
    }
    match TcpStream::connect_timeout(host, timeout) {
        Ok(_) => Reachability::Listening,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Reachability::Refused,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Reachability::TimedOut,
        Err(error) => Reachability::Failed(error),
    }
}

/// The error for an address that cannot be reached.
fn unreachable_error(
    address: &Address,
    reachability: &Reachability,
    timeout: Duration,
) -> Option<CliError> {
    let at = address.as_str();
    let error = |message: String, hint: String| {
        Some(CliError::new(Kind::NoDaemon, message).with_hint(hint))
    };
    match reachability {
        Reachability::Listening | Reachability::Unknown => None,
        Reachability::Missing => error(
            format!("no daemon at {at}: the socket does not exist"),
            format!("{}, or give its address with -a", start_hint(address)),
        ),
        Reachability::Refused => error(
            match address.target() {
                ConnectTarget::Path(_) => {
                    format!(
                        "no daemon at {at}: the socket file exists, but no process listens there"
                    )
                }
                ConnectTarget::Abstract(_)
                | ConnectTarget::Ip(_)
                | ConnectTarget::HostName { .. } => {
                    format!("no daemon at {at}: no process listens there")
                }
            },
            format!("{}, or give its address with -a", start_hint(address)),
        ),
        Reachability::PermissionDenied => error(
            format!("no permission to connect to {at}"),
            "ask the user who runs the daemon for write permission on the socket".to_owned(),
        ),
        Reachability::NotASocket => error(
            format!("no daemon at {at}: the file is not a socket"),
            "check the address".to_owned(),
        ),
        Reachability::WrongSocketType => error(
            format!("no daemon at {at}: the socket is not a stream socket"),
            "check the address".to_owned(),
        ),
        Reachability::TimedOut => error(
            format!("cannot connect to {at} within {}", humantime::format_duration(timeout)),
            "check the address and the network, or allow more time with --timeout".to_owned(),
        ),
        Reachability::Failed(reason) => {
            error(format!("cannot connect to {at}: {reason}"), "check the address".to_owned())
        }
    }
}

/// How to start a daemon at the address.
fn start_hint(address: &Address) -> String {
    if *address == Address::default() {
        "start one with `cortex-discovery`".to_owned()
    } else {
        format!("start one with `cortex-discovery --address {}`", shell_quote(address.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(2);

    #[test]
    fn every_unreachable_state_has_its_message() {
        let path = "ipc:///run/cortex/my robot.sock".parse::<Address>().unwrap();
        let name = "ipc://@cortex".parse().unwrap();
        let host = "tcp://10.0.0.5:5550".parse().unwrap();
        let default = Address::default();
        let cases = [
            (&default, Reachability::Missing),
            (&path, Reachability::Missing),
            (&path, Reachability::Refused),
            (&name, Reachability::Refused),
            (&host, Reachability::Refused),
            (&path, Reachability::PermissionDenied),
            (&path, Reachability::NotASocket),
            (&path, Reachability::WrongSocketType),
            (&host, Reachability::TimedOut),
            (&host, Reachability::Failed(Errno::NETUNREACH.into())),
        ];
        let messages = cases.map(|(address, reachability)| {
            let error = unreachable_error(address, &reachability, TIMEOUT).unwrap();
            assert_eq!(error.kind(), Kind::NoDaemon);
            format!("error: {}\nhint: {}\n", error.message(), error.hint().unwrap())
        });
        insta::assert_snapshot!(messages.join("\n"));
        assert_eq!(unreachable_error(&path, &Reachability::Listening, TIMEOUT), None);
        assert_eq!(unreachable_error(&path, &Reachability::Unknown, TIMEOUT), None);
    }

    #[test]
    fn file_types_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);

        assert!(matches!(try_path(&at("absent")), Reachability::Missing));
        std::fs::write(at("file"), "").unwrap();
        assert!(matches!(try_path(&at("file")), Reachability::NotASocket));
        assert!(matches!(try_path(&at("file/below")), Reachability::Missing));
        let _datagram = UnixDatagram::bind(at("datagram")).unwrap();
        assert!(matches!(try_path(&at("datagram")), Reachability::WrongSocketType));
        let listener = UnixListener::bind(at("socket")).unwrap();
        assert!(matches!(try_path(&at("socket")), Reachability::Listening));
        drop(listener);
        assert!(matches!(try_path(&at("socket")), Reachability::Refused));
    }

    #[test]
    fn a_full_backlog_counts_as_listening() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("busy");
        let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        let address = SocketAddrUnix::new(&path).unwrap();
        rustix::net::bind(&listener, &address).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        for _ in 0..4 {
            assert!(matches!(try_path(&path), Reachability::Listening));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn abstract_names_and_tcp_ports() {
        assert!(matches!(try_abstract("cortex-nobody-is-here"), Reachability::Refused));

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap();
        assert!(matches!(try_tcp(&host, TIMEOUT), Reachability::Listening));
        drop(listener);
        assert!(matches!(try_tcp(&host, TIMEOUT), Reachability::Refused));
        assert!(matches!(try_tcp(&host, Duration::ZERO), Reachability::TimedOut));
    }
}
