//! What may block: resolving host names, and finding out why a connection failed. Each runs on a
//! helper thread, so that a slow resolver or a full backlog stalls nothing.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use cortex_proto::ConnectTarget;

use crate::error::ConnectError;

/// How long a host may take to accept a connection before it counts as silent.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Resolves a host name, and passes the result to `done` on another thread. False without a thread.
pub(super) fn resolve(
    name: String,
    port: u16,
    done: impl FnOnce(Result<Vec<SocketAddr>, ConnectError>) + Send + 'static,
) -> bool {
    spawn(move || {
        let resolved = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        done(match resolved {
            Ok(addresses) if !addresses.is_empty() => Ok(addresses),
            Ok(_) => Err(ConnectError::HostName { name, reason: "no address".to_owned() }),
            Err(error) => Err(ConnectError::HostName { name, reason: error.to_string() }),
        });
    })
}

/// Finds out why ZeroMQ could not connect, since it does not say. `None` when a connection is
/// possible now. False without a thread.
pub(super) fn probe(
    target: ConnectTarget,
    addresses: Vec<SocketAddr>,
    done: impl FnOnce(Option<ConnectError>) + Send + 'static,
) -> bool {
    spawn(move || {
        let connected = match target {
            ConnectTarget::Path(path) => connect_path(&path),
            ConnectTarget::Abstract(name) => connect_abstract(&name),
            ConnectTarget::Ip(address) => connect_tcp(&[address]),
            ConnectTarget::HostName { .. } => connect_tcp(&addresses),
        };
        done(connected.err().map(ConnectError::from));
    })
}

fn connect_path(path: &Path) -> io::Result<()> {
    UnixStream::connect(path).map(drop)
}

#[cfg(target_os = "linux")]
fn connect_abstract(name: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt as _;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    UnixStream::connect_addr(&address).map(drop)
}

#[cfg(not(target_os = "linux"))]
fn connect_abstract(_name: &str) -> io::Result<()> {
    Err(io::ErrorKind::NotFound.into())
}

fn connect_tcp(addresses: &[SocketAddr]) -> io::Result<()> {
    let mut outcome = Err(io::ErrorKind::TimedOut.into());
    for address in addresses {
        outcome = TcpStream::connect_timeout(address, PROBE_TIMEOUT).map(drop);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn spawn(work: impl FnOnce() + Send + 'static) -> bool {
    thread::Builder::new().name("cortex-resolve".into()).spawn(work).is_ok()
}
