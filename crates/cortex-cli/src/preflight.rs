//! Whether anybody listens at the address, found out before anything is sent: ZeroMQ itself waits
//! for a daemon that is not there until the time is over.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

use crate::address::{Address, Target};
use crate::error::{CliError, Kind};
use crate::escape::shell_word;

/// What a look at the address shows.
#[derive(Debug)]
pub(crate) enum Finding {
    /// Somebody accepts connections.
    Somebody,
    /// It cannot be told without the resolver.
    Unknown,
    /// There is no such file.
    Absent,
    /// There is a socket file, a port, but nobody behind it.
    Refused,
    /// This user may not connect.
    NoPermission,
    /// The file is not a socket.
    NotASocket,
    /// A socket of another kind than `ZeroMQ`'s.
    OtherSocket,
    /// Nothing came back.
    TimedOut,
    /// Anything else.
    Failed(io::Error),
}

/// Fails when nobody can be reached at the address. A file's answer comes at once, a host's
/// within `within`.
pub(crate) fn look(address: &Address, within: Duration) -> Result<(), CliError> {
    sentence(address, &probe(address, within), within).map_or(Ok(()), Err)
}

/// Connects and hangs up.
pub(crate) fn probe(address: &Address, within: Duration) -> Finding {
    match address.target() {
        Target::Path(path) => probe_path(path),
        Target::Abstract(name) => probe_abstract(name),
        Target::Ip(host) => probe_tcp(host, within),
        Target::Name => Finding::Unknown,
    }
}

fn probe_path(path: &Path) -> Finding {
    match SocketAddrUnix::new(path).and_then(|socket| connect(&socket)) {
        // The system says the same of a plain file as of a socket without a listener.
        Err(Errno::CONNREFUSED) if is_no_socket(path) => Finding::NotASocket,
        connected => finding(connected),
    }
}

fn is_no_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::metadata(path).is_ok_and(|file| !file.file_type().is_socket())
}

#[cfg(target_os = "linux")]
fn probe_abstract(name: &str) -> Finding {
    finding(SocketAddrUnix::new_abstract_name(name.as_bytes()).and_then(|socket| connect(&socket)))
}

#[cfg(not(target_os = "linux"))]
fn probe_abstract(_name: &str) -> Finding {
    Finding::Unknown
}

fn connect(socket: &SocketAddrUnix) -> rustix::io::Result<()> {
    // Flags at its making would be shorter, but not every Unix has them; this process has no
    // children that could inherit it.
    let ours = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    rustix::net::connect(&ours, socket)
}

fn finding(connected: rustix::io::Result<()>) -> Finding {
    match connected {
        // AGAIN: so many wait to be accepted that somebody must be there.
        Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS | Errno::INTR) => Finding::Somebody,
        Err(Errno::NOENT | Errno::NOTDIR) => Finding::Absent,
        Err(Errno::CONNREFUSED) => Finding::Refused,
        Err(Errno::ACCESS | Errno::PERM) => Finding::NoPermission,
        Err(Errno::PROTOTYPE) => Finding::OtherSocket,
        Err(errno) => Finding::Failed(errno.into()),
    }
}

fn probe_tcp(host: &SocketAddr, within: Duration) -> Finding {
    if within.is_zero() {
        return Finding::TimedOut;
    }
    match TcpStream::connect_timeout(host, within) {
        Ok(_) => Finding::Somebody,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Finding::Refused,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Finding::TimedOut,
        Err(error) => Finding::Failed(error),
    }
}

/// What to say about a finding, if it means that nobody can be reached.
fn sentence(address: &Address, finding: &Finding, within: Duration) -> Option<CliError> {
    let at = address.as_str();
    let error =
        |message: String, hint: String| Some(CliError::new(Kind::NoDaemon, message).hint(hint));
    match finding {
        Finding::Somebody | Finding::Unknown => None,
        Finding::Absent => error(
            format!("no daemon at {at}: there is no such socket"),
            format!("{}, or say with -a where one is", start(address)),
        ),
        Finding::Refused => error(
            match address.target() {
                Target::Path(_) => {
                    format!("no daemon at {at}: the socket file is there, but nobody listens")
                }
                Target::Abstract(_) | Target::Ip(_) | Target::Name => {
                    format!("no daemon at {at}: nobody listens")
                }
            },
            format!("{}, or say with -a where one is", start(address)),
        ),
        Finding::NoPermission => error(
            format!("no permission to connect to {at}"),
            "ask the daemon's user for write access to its socket".to_owned(),
        ),
        Finding::NotASocket => error(
            format!("no daemon at {at}: the file is not a socket"),
            "check the address".to_owned(),
        ),
        Finding::OtherSocket => error(
            format!("no daemon at {at}: the socket belongs to something else"),
            "check the address".to_owned(),
        ),
        Finding::TimedOut => error(
            format!("no connection to {at} within {}", humantime::format_duration(within)),
            "check the address and the network, or allow more time with --timeout".to_owned(),
        ),
        Finding::Failed(reason) => {
            error(format!("no connection to {at}: {reason}"), "check the address".to_owned())
        }
    }
}

/// How to get a daemon there.
fn start(address: &Address) -> String {
    if address.is_default() {
        "start one with `cortex-discovery`".to_owned()
    } else {
        format!("start one with `cortex-discovery --address {}`", shell_word(address.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    const WITHIN: Duration = Duration::from_secs(2);

    #[test]
    fn every_finding_has_its_sentence() {
        let path = Address::parse("ipc:///run/cortex/my robot.sock").unwrap();
        let name = Address::parse("ipc://@cortex").unwrap();
        let host = Address::parse("tcp://10.0.0.5:5550").unwrap();
        let default = Address::choose(None, None).unwrap();
        let findings = [
            (&default, Finding::Absent),
            (&path, Finding::Absent),
            (&path, Finding::Refused),
            (&name, Finding::Refused),
            (&host, Finding::Refused),
            (&path, Finding::NoPermission),
            (&path, Finding::NotASocket),
            (&path, Finding::OtherSocket),
            (&host, Finding::TimedOut),
            (&host, Finding::Failed(Errno::NETUNREACH.into())),
        ];
        let sentences = findings.map(|(address, finding)| {
            let error = sentence(address, &finding, WITHIN).unwrap();
            assert_eq!(error.kind(), Kind::NoDaemon);
            format!("error: {}\nhint: {}\n", error.message(), error.hint_text().unwrap())
        });
        insta::assert_snapshot!(sentences.join("\n"));
        assert_eq!(sentence(&path, &Finding::Somebody, WITHIN), None);
        assert_eq!(sentence(&path, &Finding::Unknown, WITHIN), None);
    }

    #[test]
    fn files_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);

        assert!(matches!(probe_path(&at("absent")), Finding::Absent));
        std::fs::write(at("file"), "").unwrap();
        assert!(matches!(probe_path(&at("file")), Finding::NotASocket));
        assert!(matches!(probe_path(&at("file/below")), Finding::Absent));
        let _datagram = UnixDatagram::bind(at("datagram")).unwrap();
        assert!(matches!(probe_path(&at("datagram")), Finding::OtherSocket));
        let listener = UnixListener::bind(at("socket")).unwrap();
        assert!(matches!(probe_path(&at("socket")), Finding::Somebody));
        drop(listener);
        assert!(matches!(probe_path(&at("socket")), Finding::Refused));
    }

    #[test]
    fn a_full_backlog_is_somebody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("busy");
        let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        let address = SocketAddrUnix::new(&path).unwrap();
        rustix::net::bind(&listener, &address).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        for _ in 0..4 {
            assert!(matches!(probe_path(&path), Finding::Somebody));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn abstract_names_and_ports() {
        assert!(matches!(probe_abstract("cortex-nobody-is-here"), Finding::Refused));

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap();
        assert!(matches!(probe_tcp(&host, WITHIN), Finding::Somebody));
        drop(listener);
        assert!(matches!(probe_tcp(&host, WITHIN), Finding::Refused));
        assert!(matches!(probe_tcp(&host, Duration::ZERO), Finding::TimedOut));
    }
}
