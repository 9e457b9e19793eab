//! Probes in the daemon's own process: TCP and abstract Unix sockets, which never block.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry as PollRegistry, Token};
use rustix::io::Errno;

use super::limits::SIGNATURE;
use super::listening::listening_socket;
use super::outcome::ProbeOutcome;
use crate::edge::credentials::Credentials;
use crate::edge::processes::identify_living;
use crate::edge::stream::Stream;
use crate::edge::tokens::Tokens;
use crate::peer::EndpointListener;
use crate::registry::{ProbeResult, UnknownReason};

/// Connections that never block: the first, and further ones where it refused or was closed.
#[derive(Debug)]
pub(super) struct ConnectionAttempt {
    stream: Stream,
    endpoint: Endpoint,
    /// A listener that closes also closes the connections in its backlog. So a connection that ends
    /// without a byte needs a second one.
    was_closed: bool,
}

/// Where an attempt connects.
#[derive(Clone, Debug)]
pub(super) enum Endpoint {
    Abstract(String),
    /// The addresses that are left, beginning with the present one; never empty.
    Tcp(VecDeque<SocketAddr>),
}

/// How far an attempt has come.
#[derive(Debug)]
pub(super) enum Progress {
    /// Nothing has arrived yet.
    Pending,
    /// There is a new connection, which the poll does not know yet.
    Reconnected,
    Judged(ProbeOutcome),
}

impl ConnectionAttempt {
    /// Connects.
    ///
    /// # Errors
    /// The outcome, if it is known at once.
    pub(super) fn start(mut endpoint: Endpoint) -> Result<Self, ProbeOutcome> {
        let stream = endpoint.connect()?;
        Ok(Self { stream, endpoint, was_closed: false })
    }

    pub(super) fn register(
        &mut self,
        poll_registry: &PollRegistry,
        tokens: &Tokens,
    ) -> io::Result<Token> {
        let token = match &self.stream {
            Stream::Unix(stream) => tokens.of(stream),
            Stream::Tcp(stream) => tokens.of(stream),
        };
        let token = token.ok_or(io::ErrorKind::Unsupported)?;
        self.stream.register(poll_registry, token, Interest::READABLE)?;
        Ok(token)
    }

    /// Reads the first byte, if it has arrived.
    pub(super) fn poll(&mut self) -> Progress {
        let mut byte = [0];
        let error = match self.stream.read(&mut byte) {
            Ok(0) => return self.closed(),
            Ok(_) if byte[0] == SIGNATURE => return self.judged(ProbeResult::Alive),
            Ok(_) => return self.judged(ProbeResult::Silent),
            Err(error) => error,
        };
        match Errno::from_io_error(&error) {
            Some(Errno::AGAIN) if is_connected_to_itself(&self.stream) => self.refused(),
            // Some systems return NOTCONN while the connect is still in progress.
            Some(Errno::AGAIN | Errno::NOTCONN | Errno::INTR) => Progress::Pending,
            Some(Errno::CONNRESET) => self.closed(),
            _ => match self.endpoint.result_of(&error) {
                ProbeResult::Dead => self.refused(),
                result @ (ProbeResult::Silent
                | ProbeResult::Alive
                | ProbeResult::Unreachable
                | ProbeResult::Unknown(_)) => self.judged(result),
            },
        }
    }

    /// The outcome if no byte comes any more.
    pub(super) fn outcome_at_deadline(&self) -> ProbeOutcome {
        let listener = self.listener();
        let is_connected = match &self.stream {
            Stream::Unix(_) => true,
            Stream::Tcp(stream) => stream.peer_addr().is_ok(),
        };
        // On this machine a missing handshake means a full backlog.
        if is_connected || listener.is_some() {
            ProbeOutcome { result: ProbeResult::Silent, listener }
        } else {
            ProbeResult::Unreachable.into()
        }
    }

    fn judged(&self, result: ProbeResult) -> Progress {
        Progress::Judged(ProbeOutcome::new(result, || self.listener()))
    }

    fn closed(&mut self) -> Progress {
        if !std::mem::replace(&mut self.was_closed, true) {
            return self.reconnect();
        }
        match self.endpoint {
            // A program listens, and closes the connections of the probe.
            Endpoint::Abstract(_) => self.judged(ProbeResult::Silent),
            Endpoint::Tcp(_) => self.judged(ProbeResult::Unreachable),
        }
    }

    fn refused(&mut self) -> Progress {
        match &mut self.endpoint {
            Endpoint::Tcp(addresses) if addresses.len() > 1 => {
                addresses.pop_front();
                self.was_closed = false;
                self.reconnect()
            }
            Endpoint::Abstract(_) | Endpoint::Tcp(_) => self.judged(ProbeResult::Dead),
        }
    }

    fn reconnect(&mut self) -> Progress {
        match self.endpoint.connect() {
            Ok(stream) => {
                self.stream = stream;
                Progress::Reconnected
            }
            Err(outcome) => Progress::Judged(outcome),
        }
    }

    fn listener(&self) -> Option<EndpointListener> {
        match (&self.stream, &self.endpoint) {
            (Stream::Unix(stream), _) => {
                let pid = Credentials::of_peer(stream).pid?;
                identify_living(pid).map(EndpointListener::Process)
            }
            (Stream::Tcp(stream), Endpoint::Tcp(addresses)) => {
                let address = *addresses.front()?;
                let local = stream.local_addr().ok()?;
                let is_own = address.ip().is_loopback() || local.ip() == address.ip();
                is_own.then(|| listening_socket(address)).flatten().map(EndpointListener::Socket)
            }
            (Stream::Tcp(_), Endpoint::Abstract(_)) => None,
        }
    }
}

impl Endpoint {
    /// Connects to the first address that does not refuse at once.
    fn connect(&mut self) -> Result<Stream, ProbeOutcome> {
        loop {
            let error = match self {
                Self::Abstract(name) => match connect_abstract(name) {
                    Ok(stream) => return Ok(Stream::Unix(stream)),
                    // A program listens, and its backlog is full.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Err(ProbeResult::Silent.into());
                    }
                    Err(error) => error,
                },
                Self::Tcp(addresses) => {
                    let Some(&address) = addresses.front() else {
                        return Err(ProbeResult::Unknown(UnknownReason::Address).into());
                    };
                    match TcpStream::connect(address) {
                        Ok(stream) => return Ok(Stream::Tcp(stream)),
                        Err(error) => error,
                    }
                }
            };
            let result = self.result_of(&error);
            match self {
                Self::Tcp(addresses) if result == ProbeResult::Dead && addresses.len() > 1 => {
                    addresses.pop_front();
                }
                Self::Abstract(_) | Self::Tcp(_) => return Err(result.into()),
            }
        }
    }

    fn result_of(&self, error: &io::Error) -> ProbeResult {
        let is_loopback = matches!(
            self,
            Self::Tcp(addresses) if addresses.front().is_some_and(|address| address.ip().is_loopback())
        );
        match Errno::from_io_error(error) {
            Some(Errno::CONNREFUSED | Errno::NOENT) => ProbeResult::Dead,
            // A machine without IPv6.
            Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT | Errno::NETUNREACH) if is_loopback => {
                ProbeResult::Dead
            }
            Some(Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::TIMEDOUT | Errno::HOSTDOWN) => {
                ProbeResult::Unreachable
            }
            Some(Errno::ACCESS | Errno::PERM) => ProbeResult::Unknown(UnknownReason::Permission),
            _ => ProbeResult::Unknown(UnknownReason::Failure),
        }
    }
}

/// The system may choose the probed port as the local port of the probe's own socket. If no
/// program listens on it, TCP connects the socket to itself.
fn is_connected_to_itself(stream: &Stream) -> bool {
    match stream {
        Stream::Unix(_) => false,
        Stream::Tcp(stream) => match (stream.local_addr(), stream.peer_addr()) {
            (Ok(local), Ok(peer)) => local == peer,
            _ => false,
        },
    }
}

#[cfg(target_os = "linux")]
fn connect_abstract(name: &str) -> io::Result<UnixStream> {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::SocketAddr as UnixAddr;

    UnixStream::connect_addr(&UnixAddr::from_abstract_name(name)?)
}

#[cfg(not(target_os = "linux"))]
fn connect_abstract(_name: &str) -> io::Result<UnixStream> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rustix::net::{AddressFamily, SocketType};

    use super::*;

    #[test]
    fn a_socket_that_is_connected_to_itself_is_dead() {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address: SocketAddr = rustix::net::getsockname(&socket).unwrap().try_into().unwrap();
        let stream = std::net::TcpStream::from(socket);
        rustix::net::connect(&stream, &address).unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut attempt = ConnectionAttempt {
            stream: Stream::Tcp(TcpStream::from_std(stream)),
            endpoint: Endpoint::Tcp([address].into()),
            was_closed: false,
        };
        let Progress::Judged(outcome) = attempt.poll() else { panic!("nothing more will come") };
        assert_eq!(outcome, ProbeResult::Dead.into());
    }

    #[test]
    fn the_next_address_is_tried_when_one_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let addresses: VecDeque<_> =
            [2, 1].map(|last| SocketAddr::from(([127, 0, 0, last], port))).into();
        let mut attempt = ConnectionAttempt::start(Endpoint::Tcp(addresses.clone())).unwrap();
        while matches!(attempt.poll(), Progress::Pending)
            && attempt.endpoint.first() == Some(addresses[0])
        {
            std::thread::yield_now();
        }
        assert_eq!(attempt.endpoint.first(), Some(addresses[1]));
        listener.accept().unwrap();
        assert_eq!(attempt.outcome_at_deadline().result, ProbeResult::Silent);
    }

    #[test]
    fn the_systems_errors_have_a_meaning() {
        let endpoint = |ip: [u8; 4]| Endpoint::Tcp([SocketAddr::from((ip, 5))].into());
        let (here, there) = (endpoint([127, 0, 0, 1]), endpoint([10, 0, 0, 1]));
        let unknown = |reason| ProbeResult::Unknown(reason);
        for (errno, result_here, result_there) in [
            (Errno::CONNREFUSED, ProbeResult::Dead, ProbeResult::Dead),
            (Errno::HOSTUNREACH, ProbeResult::Unreachable, ProbeResult::Unreachable),
            (Errno::TIMEDOUT, ProbeResult::Unreachable, ProbeResult::Unreachable),
            (Errno::NETUNREACH, ProbeResult::Dead, ProbeResult::Unreachable),
            (Errno::ADDRNOTAVAIL, ProbeResult::Dead, unknown(UnknownReason::Failure)),
            (Errno::AFNOSUPPORT, ProbeResult::Dead, unknown(UnknownReason::Failure)),
            (Errno::PERM, unknown(UnknownReason::Permission), unknown(UnknownReason::Permission)),
            (Errno::MFILE, unknown(UnknownReason::Failure), unknown(UnknownReason::Failure)),
        ] {
            let error = io::Error::from(errno);
            assert_eq!(here.result_of(&error), result_here, "{errno:?}");
            assert_eq!(there.result_of(&error), result_there, "{errno:?}");
        }
    }

    impl Endpoint {
        fn first(&self) -> Option<SocketAddr> {
            match self {
                Self::Tcp(addresses) => addresses.front().copied(),
                Self::Abstract(_) => None,
            }
        }
    }
}
