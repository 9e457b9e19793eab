//! Probes: connection attempts that find out whether a ZeroMQ socket listens at an endpoint.
//!
//! A probe connects, waits for the first byte and closes. It sends nothing: a ZeroMQ socket sends
//! its signature to every peer that connects. If a process is stopped, or if a forked child keeps
//! the socket without serving it, the kernel accepts connections and the endpoint stays silent.
//!
//! Silent endpoints must not delay the detection of dead ones. So all requests for an address share
//! one probe, and only some of the sockets are for full probes, which wait for long. When these are
//! in use, an endpoint gets a quick probe first, and if it stays silent, it waits in a queue for a
//! full probe. The quick probe of a Unix socket is only a connect, which succeeds or fails at once.
//! Over TCP the kernel's refusal takes a moment, so a quick probe uses one of the other sockets.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::net::SocketAddr as UnixAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cortex_proto::TopicName;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry as PollRegistry, Token};
use rustix::io::Errno;

use super::stream::Stream;
use super::tokens::Tokens;
use crate::config::MAX_SOCKET_PATH;
use crate::registry::{ProbeResult, UnknownReason};

#[cfg(test)]
mod tests;

/// How long a full probe may take, from its connect on.
const FULL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a quick probe may take: enough for a refusal by this machine.
const QUICK_TIMEOUT: Duration = Duration::from_millis(10);
/// The most probes that a round of the loop starts from each queue, so that a long queue does not
/// delay the clients.
const MAX_ROUND_STARTS: usize = 64;
/// The first byte of a ZMTP greeting.
const SIGNATURE: u8 = 0xff;

/// The running probes, the endpoints that wait for a socket, and the results.
#[derive(Debug)]
pub(crate) struct Probes {
    poll_registry: PollRegistry,
    tokens: Tokens,
    limit: usize,
    /// The requests for each address that is in a queue or has a running probe.
    requests: HashMap<Arc<str>, Vec<(TopicName, u64)>>,
    untried_unix: VecDeque<Target>,
    untried_tcp: VecDeque<Target>,
    /// The endpoints that stayed silent in a quick probe.
    tried: VecDeque<Target>,
    running: HashMap<Token, Probe>,
    /// The probes that have an event.
    ready: Vec<Token>,
    results: Vec<(TopicName, u64, ProbeResult)>,
}

/// An endpoint to probe.
#[derive(Debug)]
struct Target {
    address: Arc<str>,
    endpoint: Endpoint,
}

#[derive(Clone, Debug)]
enum Endpoint {
    Unix(UnixAddr),
    Tcp(SocketAddr),
}

#[derive(Debug)]
struct Probe {
    target: Target,
    kind: ProbeKind,
    deadline: Instant,
    attempt: ConnectAttempt,
    stream: Stream,
}

/// How long a probe waits for the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProbeKind {
    Quick,
    Full,
}

/// A listener that closes also closes the connections in its backlog. So a connection that ends
/// without a byte needs a second attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectAttempt {
    First,
    Second,
}

/// What a probe has observed at its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Observation {
    /// Nothing within the time of a quick probe.
    Unanswered,
    Closed,
    Judged(ProbeResult),
}

impl Probes {
    /// Uses at most `limit` sockets at once, at least one, and one more for a moment when it
    /// connects a Unix socket. A quarter of the sockets, at least one of two, is only for quick
    /// probes.
    /// `tokens` needs a token for each possible descriptor number; the result of a probe with a
    /// higher number is unknown.
    pub(crate) fn new(poll_registry: PollRegistry, tokens: Range<usize>, limit: usize) -> Self {
        Self {
            poll_registry,
            tokens: Tokens::new(tokens),
            limit: limit.max(1),
            requests: HashMap::new(),
            untried_unix: VecDeque::new(),
            untried_tcp: VecDeque::new(),
            tried: VecDeque::new(),
            running: HashMap::new(),
            ready: Vec::new(),
            results: Vec::new(),
        }
    }

    /// Requests a probe of an endpoint. Each call leads to one result; calls for the same address
    /// share a probe.
    pub(crate) fn start(&mut self, name: TopicName, revision: u64, address: &str) {
        if let Some(requests) = self.requests.get_mut(address) {
            return requests.push((name, revision));
        }
        let Some(endpoint) = Endpoint::parse(address) else {
            return self.results.push((
                name,
                revision,
                ProbeResult::Unknown(UnknownReason::Failure),
            ));
        };
        let queue = match endpoint {
            Endpoint::Unix(_) => &mut self.untried_unix,
            Endpoint::Tcp(_) => &mut self.untried_tcp,
        };
        let address: Arc<str> = address.into();
        queue.push_back(Target { address: Arc::clone(&address), endpoint });
        self.requests.insert(address, vec![(name, revision)]);
    }

    /// Notes that a probe has an event. A late event does no harm.
    pub(crate) fn mark(&mut self, token: Token) {
        if self.running.contains_key(&token) {
            self.ready.push(token);
        }
    }

    /// Advances all probes as far as possible without waiting, and appends their results.
    pub(crate) fn take_results(
        &mut self,
        now: Instant,
        out: &mut Vec<(TopicName, u64, ProbeResult)>,
    ) {
        for token in std::mem::take(&mut self.ready) {
            self.poll(token);
        }
        self.expire(now);
        self.start_tried(now);
        self.start_unix(now);
        self.start_tcp(now);
        out.append(&mut self.results);
    }

    /// Whether [`take_results`](Self::take_results) has work without another event.
    pub(crate) fn has_results(&self) -> bool {
        let may_start = !self.untried_unix.is_empty()
            || (!self.untried_tcp.is_empty() && self.has_room(ProbeKind::Quick))
            || (!self.tried.is_empty() && self.has_room(ProbeKind::Full));
        may_start || !self.results.is_empty() || !self.ready.is_empty()
    }

    /// When [`take_results`](Self::take_results) must end a probe that has taken too long.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.running.values().map(|probe| probe.deadline).min()
    }

    /// Whether the token is one of a probe.
    pub(crate) fn owns(&self, token: Token) -> bool {
        self.tokens.owns(token)
    }

    fn start_tried(&mut self, now: Instant) {
        for _ in 0..MAX_ROUND_STARTS {
            if !self.has_room(ProbeKind::Full) {
                break;
            }
            let Some(target) = self.tried.pop_front() else { break };
            self.start_probe(target, ProbeKind::Full, now);
        }
    }

    fn start_unix(&mut self, now: Instant) {
        for _ in 0..MAX_ROUND_STARTS {
            let Some(target) = self.untried_unix.pop_front() else { break };
            if self.may_start_full() {
                self.start_probe(target, ProbeKind::Full, now);
                continue;
            }
            match target.endpoint.connect() {
                Ok(_) => self.tried.push_back(target),
                Err(result) => self.report(&target, result),
            }
        }
    }

    fn start_tcp(&mut self, now: Instant) {
        for _ in 0..MAX_ROUND_STARTS {
            if !self.has_room(ProbeKind::Quick) {
                break;
            }
            let Some(target) = self.untried_tcp.pop_front() else { break };
            let kind = if self.may_start_full() { ProbeKind::Full } else { ProbeKind::Quick };
            self.start_probe(target, kind, now);
        }
    }

    /// Whether an untried endpoint may get a full probe: not before the tried ones.
    fn may_start_full(&self) -> bool {
        self.tried.is_empty() && self.has_room(ProbeKind::Full)
    }

    fn has_room(&self, kind: ProbeKind) -> bool {
        let is_full = |probe: &&Probe| probe.kind == ProbeKind::Full;
        let full_limit = (self.limit - (self.limit / 4).max(1)).max(1);
        self.running.len() < self.limit
            && (kind == ProbeKind::Quick
                || self.running.values().filter(is_full).count() < full_limit)
    }

    fn start_probe(&mut self, target: Target, kind: ProbeKind, now: Instant) {
        self.connect(target, kind, now + kind.timeout(), ConnectAttempt::First);
    }

    fn connect(
        &mut self,
        target: Target,
        kind: ProbeKind,
        deadline: Instant,
        attempt: ConnectAttempt,
    ) {
        match target.endpoint.connect() {
            Ok(stream) => self.poll_probe(Probe { target, kind, deadline, attempt, stream }),
            Err(result) => self.report(&target, result),
        }
    }

    fn poll_probe(&mut self, mut probe: Probe) {
        match probe.poll() {
            None => self.register(probe),
            Some(observation) => self.conclude(probe, observation),
        }
    }

    /// Adds a probe to the poll, which also reports bytes that have arrived before.
    fn register(&mut self, mut probe: Probe) {
        let Some(token) = probe.stream.token(&self.tokens) else {
            return self.report(&probe.target, ProbeResult::Unknown(UnknownReason::Failure));
        };
        if let Err(error) = probe.stream.register(&self.poll_registry, token, Interest::READABLE) {
            tracing::debug!(%error, "cannot watch a probe");
            return self.report(&probe.target, ProbeResult::Unknown(UnknownReason::Failure));
        }
        self.running.insert(token, probe);
    }

    fn poll(&mut self, token: Token) {
        let observation = self.running.get_mut(&token).and_then(Probe::poll);
        if let Some(observation) = observation {
            self.finish(token, observation);
        }
    }

    /// Ends the probes whose time is over. Reads once more before, because the loop may be late
    /// too.
    fn expire(&mut self, now: Instant) {
        let late = |(&token, probe): (&Token, &Probe)| (probe.deadline <= now).then_some(token);
        let late: Vec<_> = self.running.iter().filter_map(late).collect();
        for token in late {
            let Some(probe) = self.running.get_mut(&token) else { continue };
            let observation = probe.poll().unwrap_or_else(|| probe.observation_at_deadline());
            self.finish(token, observation);
        }
    }

    fn finish(&mut self, token: Token, observation: Observation) {
        let Some(mut probe) = self.running.remove(&token) else { return };
        if let Err(error) = probe.stream.deregister(&self.poll_registry) {
            tracing::debug!(%error, "cannot remove a probe from the poll");
        }
        self.conclude(probe, observation);
    }

    fn conclude(&mut self, probe: Probe, observation: Observation) {
        let Probe { target, kind, deadline, attempt, stream } = probe;
        drop(stream);
        match (observation, attempt) {
            (Observation::Unanswered, _) => self.tried.push_back(target),
            (Observation::Judged(result), _) => self.report(&target, result),
            (Observation::Closed, ConnectAttempt::First) => {
                self.connect(target, kind, deadline, ConnectAttempt::Second);
            }
            // A program listens, and closes the connections of the probe.
            (Observation::Closed, ConnectAttempt::Second) => {
                self.report(&target, ProbeResult::Silent);
            }
        }
    }

    fn report(&mut self, target: &Target, result: ProbeResult) {
        let requests = self.requests.remove(&target.address).unwrap_or_default();
        let results = requests.into_iter().map(|(name, revision)| (name, revision, result));
        self.results.extend(results);
    }
}

impl ProbeKind {
    fn timeout(self) -> Duration {
        match self {
            Self::Quick => QUICK_TIMEOUT,
            Self::Full => FULL_TIMEOUT,
        }
    }
}

impl Endpoint {
    /// Parses an address that the daemon can probe without a resolver. `None` for all others: host
    /// names, wildcards, relative paths, whose directory is unknown, and other transports.
    fn parse(address: &str) -> Option<Self> {
        if let Some(path) = address.strip_prefix("ipc://") {
            parse_unix(path).map(Self::Unix)
        } else {
            parse_tcp(address.strip_prefix("tcp://")?).map(Self::Tcp)
        }
    }

    fn connect(&self) -> Result<Stream, ProbeResult> {
        match self {
            Self::Unix(address) => match UnixStream::connect_addr(address) {
                Ok(stream) => Ok(Stream::Unix(stream)),
                // A program listens, and its backlog is full.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(ProbeResult::Silent),
                Err(error) => Err(result_of(&error)),
            },
            Self::Tcp(address) => {
                TcpStream::connect(*address).map(Stream::Tcp).map_err(|error| result_of(&error))
            }
        }
    }
}

fn parse_unix(path: &str) -> Option<UnixAddr> {
    // The kernel allows one byte more for abstract names; libzmq does not.
    if path.len() > MAX_SOCKET_PATH || path.contains('\0') {
        return None;
    }
    match path.strip_prefix('@') {
        Some("") => None,
        Some(name) => abstract_address(name),
        None if path.starts_with('/') => UnixAddr::from_pathname(path).ok(),
        None => None,
    }
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &str) -> Option<UnixAddr> {
    use std::os::linux::net::SocketAddrExt as _;

    UnixAddr::from_abstract_name(name).ok()
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_name: &str) -> Option<UnixAddr> {
    None
}

fn parse_tcp(text: &str) -> Option<SocketAddr> {
    let address: SocketAddr = text.parse().ok()?;
    let is_wildcard = address.ip().to_canonical().is_unspecified() || address.port() == 0;
    (!is_wildcard).then_some(address)
}

/// What an error means for an endpoint. Most errors come from the network or from the daemon
/// itself.
fn result_of(error: &io::Error) -> ProbeResult {
    match Errno::from_io_error(error) {
        Some(Errno::CONNREFUSED | Errno::NOENT) => ProbeResult::Dead,
        _ => ProbeResult::Unknown(UnknownReason::Failure),
    }
}

impl Probe {
    /// `None`: nothing has arrived yet.
    fn poll(&mut self) -> Option<Observation> {
        let mut byte = [0];
        let error = match self.stream.read(&mut byte) {
            Ok(0) => return Some(Observation::Closed),
            Ok(_) if byte[0] == SIGNATURE => return Some(Observation::Judged(ProbeResult::Alive)),
            Ok(_) => return Some(Observation::Judged(ProbeResult::Silent)),
            Err(error) => error,
        };
        match Errno::from_io_error(&error) {
            Some(Errno::AGAIN) if self.stream.is_connected_to_itself() => {
                Some(Observation::Judged(ProbeResult::Dead))
            }
            // Some systems return NOTCONN while the connect is still in progress.
            Some(Errno::AGAIN | Errno::NOTCONN | Errno::INTR) => None,
            Some(Errno::CONNRESET) => Some(Observation::Closed),
            _ => Some(Observation::Judged(result_of(&error))),
        }
    }

    fn observation_at_deadline(&self) -> Observation {
        match self.kind {
            ProbeKind::Quick => Observation::Unanswered,
            ProbeKind::Full if self.stream.is_connected() => {
                Observation::Judged(ProbeResult::Silent)
            }
            ProbeKind::Full => Observation::Judged(ProbeResult::Unknown(UnknownReason::Failure)),
        }
    }
}

impl Stream {
    fn token(&self, tokens: &Tokens) -> Option<Token> {
        match self {
            Self::Unix(stream) => tokens.of(stream),
            Self::Tcp(stream) => tokens.of(stream),
        }
    }

    fn is_connected(&self) -> bool {
        match self {
            // A Unix socket connects at once or fails.
            Self::Unix(_) => true,
            Self::Tcp(stream) => stream.peer_addr().is_ok(),
        }
    }

    /// The system may choose the probed port as the local port of the probe's own socket. If no
    /// program listens on it, TCP connects the socket to itself.
    fn is_connected_to_itself(&self) -> bool {
        match self {
            Self::Unix(_) => false,
            Self::Tcp(stream) => match (stream.local_addr(), stream.peer_addr()) {
                (Ok(local), Ok(peer)) => local == peer,
                _ => false,
            },
        }
    }
}
