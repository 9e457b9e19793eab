use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path as FilePath;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::Duration;

use cortex_proto::TopicName;
use mio::{Events, Poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

use super::helper::fake::{Broken, Fault, InThread};
use super::limits::{NAME_TIMEOUT, PATH_TIMEOUT};
use super::*;
use crate::edge::processes::identify;
use crate::peer::{PeerIdentity, Process};

const FIRST: usize = 1 << 32;
/// Far more than anything here takes.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(250);

struct Prober {
    poll: Poll,
    probes: Probes,
    max_sockets: usize,
}

impl Prober {
    fn new(limit: usize) -> Self {
        Self::with_helpers(limit, [Some(Box::new(InThread)), Some(Box::new(InThread))])
    }

    fn with_helpers(limit: usize, helpers: [Option<Box<dyn Launch>>; 2]) -> Self {
        let poll = Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let tokens = FIRST..FIRST + (1 << 24);
        let folders = SharedFolders::of(&["ipc:///tmp/discovery.sock".parse().unwrap()]);
        let probes = Probes::with_helpers(registry, tokens, limit, folders, helpers);
        Self { poll, probes, max_sockets: 0 }
    }

    fn broken(fault: Fault) -> (Self, Broken) {
        let helper = Broken::new(fault);
        (Self::with_helpers(4, [Some(Box::new(helper.clone())), None]), helper)
    }

    fn start(&mut self, revision: u64, address: &str) {
        self.probes.start(request(revision, address), Instant::now());
    }

    fn start_short(&mut self, revision: u64, address: &str) {
        let request = ProbeRequest {
            patience: SHORT,
            needs_new_connection: true,
            ..request(revision, address)
        };
        self.probes.start(request, Instant::now());
    }

    /// One round of a loop, which waits until `until` at the latest.
    fn round(&mut self, until: Instant) -> Vec<(u64, ProbeOutcome)> {
        let deadline = self.probes.next_deadline().map_or(until, |at| at.min(until));
        let wait = if self.probes.has_answers() {
            Duration::ZERO
        } else {
            deadline.saturating_duration_since(Instant::now())
        };
        self.poll_events(wait);
        let answers = self.take(Instant::now());
        let probes = self.probes.by_id.values();
        let sockets = probes.filter(|probe| matches!(probe.stage, Stage::InDaemon { .. })).count();
        self.max_sockets = self.max_sockets.max(sockets);
        answers
    }

    fn poll_events(&mut self, wait: Duration) {
        let mut events = Events::with_capacity(64);
        self.poll.poll(&mut events, Some(wait)).unwrap();
        for event in &events {
            assert!(self.probes.owns(event.token()));
            self.probes.mark(event.token());
        }
    }

    fn take(&mut self, now: Instant) -> Vec<(u64, ProbeOutcome)> {
        let mut found = Vec::new();
        self.probes.take_answers(now, &mut found);
        found.into_iter().map(|answer| (answer.revision, answer.outcome)).collect()
    }

    /// The next `count` outcomes, by revision.
    fn outcomes(&mut self, count: usize) -> Vec<(u64, ProbeOutcome)> {
        let until = Instant::now() + TEST_TIMEOUT;
        let mut found = Vec::new();
        while found.len() < count {
            assert!(Instant::now() < until, "{} of {count} outcomes", found.len());
            found.extend(self.round(until));
        }
        found.sort_unstable_by_key(|(revision, _)| *revision);
        found
    }

    fn results(&mut self, count: usize) -> Vec<(u64, ProbeResult)> {
        self.outcomes(count).into_iter().map(|(revision, found)| (revision, found.result)).collect()
    }

    /// Waits until the helper has reported everything. It may be behind the answers.
    fn wait_until_idle(&mut self) {
        let until = Instant::now() + TEST_TIMEOUT;
        while !self.is_idle() {
            assert!(Instant::now() < until);
            assert_eq!(self.round(until), []);
        }
    }

    fn is_idle(&self) -> bool {
        let probes = &self.probes;
        probes.by_id.is_empty()
            && probes.by_target.is_empty()
            && probes.by_token.is_empty()
            && probes.agenda.is_empty()
            && !probes.has_answers()
            && [&probes.in_daemon, &probes.for_paths, &probes.for_names]
                .into_iter()
                .all(Lane::is_idle)
    }
}

fn request(revision: u64, address: &str) -> ProbeRequest {
    ProbeRequest {
        name: TopicName::new("/topic").unwrap(),
        revision,
        address: address.to_owned(),
        owner: PeerIdentity { uid: Some(0), process: Some(this_process()), is_local: true },
        patience: MAX_PATIENCE,
        needs_new_connection: false,
        listener: None,
    }
}

fn this_process() -> Process {
    static THIS: OnceLock<Process> = OnceLock::new();
    *THIS.get_or_init(|| identify(std::process::id()).unwrap())
}

fn find(address: &str) -> ProbeOutcome {
    let mut prober = Prober::new(4);
    prober.start(1, address);
    let found = prober.outcomes(1);
    prober.wait_until_idle();
    found[0].1
}

fn probe(address: &str) -> ProbeResult {
    find(address).result
}

fn unknown(reason: UnknownReason) -> ProbeResult {
    ProbeResult::Unknown(reason)
}

fn served_here(result: ProbeResult) -> ProbeOutcome {
    ProbeOutcome { result, listener: Some(EndpointListener::Process(this_process())) }
}

fn ipc(path: &FilePath) -> String {
    format!("ipc://{}", path.display())
}

fn unix_listener() -> (TempDir, UnixListener, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    (directory, listener, ipc(&path))
}

fn tcp_listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    (listener, address)
}

fn port_of(listener: &TcpListener) -> u16 {
    listener.local_addr().unwrap().port()
}

fn inode_of(socket: &impl AsRawFd) -> EndpointListener {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
    let text = link.to_str().unwrap();
    let inode = text.strip_prefix("socket:[").unwrap().strip_suffix(']').unwrap();
    EndpointListener::Socket(inode.parse().unwrap())
}

/// An address at which no program can listen while the socket is open. Another program could take a
/// port that is only free.
fn reserved_tcp() -> (OwnedFd, SocketAddr) {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = rustix::net::getsockname(&socket).unwrap().try_into().unwrap();
    (socket, address)
}

/// Sends `words` to each of the next `count` connections. Each must then be closed by the probe
/// without a byte.
fn serve_unix(listener: UnixListener, words: &'static [u8], count: usize) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for _ in 0..count {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
            stream.write_all(words).unwrap();
            let mut received = [0];
            match stream.read(&mut received) {
                Ok(count) => assert_eq!(count, 0, "a probe sends nothing"),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
            }
        }
    })
}

fn serve_tcp(listener: TcpListener) -> JoinHandle<TcpListener> {
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"\xff").unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "a probe sends nothing");
        listener
    })
}

#[test]
fn a_greeting_is_recognized_by_its_first_byte() {
    let cases: [(&[u8], ProbeResult); 4] = [
        (b"\xff\0\0\0\0\0\0\0\x01\x7f", ProbeResult::Alive),
        (b"\xff", ProbeResult::Alive),
        (b"HTTP/1.1 400 Bad Request", ProbeResult::Silent),
        (b"\x7f\xff", ProbeResult::Silent),
    ];
    for (words, result) in cases {
        let (_directory, listener, address) = unix_listener();
        let server = serve_unix(listener, words, 1);
        assert_eq!(find(&address), served_here(result), "{words:?}");
        server.join().unwrap();
    }
}

#[test]
fn a_tcp_listener_is_known_by_its_inode() {
    for (bound, probed) in [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "localhost"),
        ("127.0.0.1", "*"),
        ("127.0.0.1", "0.0.0.0"),
        ("127.0.0.1", "[::]"),
        ("0.0.0.0", "127.0.0.5"),
        ("::", "127.0.0.1"),
        ("::1", "[::1]"),
        ("::1", "localhost"),
        ("::1", "[::]"),
    ] {
        let Ok(listener) = TcpListener::bind((bound, 0)) else {
            assert!(bound.contains(':'), "only IPv6 may be missing");
            continue;
        };
        let listening = inode_of(&listener);
        let address = format!("tcp://{probed}:{}", port_of(&listener));
        let server = serve_tcp(listener);
        let alive = ProbeOutcome { result: ProbeResult::Alive, listener: Some(listening) };
        assert_eq!(find(&address), alive, "{address}");
        let listener = server.join().unwrap();
        let silent = ProbeOutcome { result: ProbeResult::Silent, listener: Some(listening) };
        assert_eq!(find(&address), silent, "{address}");
        drop(listener);
        assert_eq!(probe(&address), ProbeResult::Dead, "{address}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn abstract_sockets_are_found() {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::SocketAddr as UnixAddr;

    let name = format!("cortex-probe-test-{}", std::process::id());
    let address = format!("ipc://@{name}");
    assert_eq!(probe(&address), ProbeResult::Dead);
    let listener = UnixListener::bind_addr(&UnixAddr::from_abstract_name(&name).unwrap()).unwrap();
    let silent = served_here(ProbeResult::Silent);
    assert_eq!(find(&address), silent);
    drop(listener.accept().unwrap());
    let server = serve_unix(listener, b"\xff", 1);
    assert_eq!(find(&address), served_here(ProbeResult::Alive));
    server.join().unwrap();
}

#[test]
fn endpoints_without_a_listener_are_dead() {
    let (directory, listener, address) = unix_listener();
    drop(listener);
    assert_eq!(probe(&address), ProbeResult::Dead, "a socket file without a socket");
    assert_eq!(probe(&ipc(&directory.path().join("missing"))), ProbeResult::Dead);
    assert_eq!(probe(&ipc(&directory.path().join("no/such"))), ProbeResult::Dead);
    let file = directory.path().join("file");
    std::fs::write(&file, "text").unwrap();
    assert_eq!(probe(&ipc(&file)), ProbeResult::Dead, "a file is no socket");
    assert_eq!(probe(&ipc(&file.join("s"))), ProbeResult::Dead, "a file is no directory");
    let (_reserved, refusing) = reserved_tcp();
    assert_eq!(probe(&format!("tcp://{refusing}")), ProbeResult::Dead);
}

#[test]
fn an_absent_path_is_judged_in_shared_folders_or_where_its_listener_was_seen() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = directory.path().join("s");
    let address = ipc(&path);
    assert_eq!(probe(&address), unknown(UnknownReason::Namespace));
    assert_eq!(probe("ipc:///tmp/cortex/topics/no-such-topic"), ProbeResult::Dead);

    let mut prober = Prober::new(4);
    prober.start(1, &address);
    let listener = Some(EndpointListener::Process(this_process()));
    prober.probes.start(ProbeRequest { listener, ..request(2, &address) }, Instant::now());
    assert_eq!(
        prober.results(2),
        [(1, unknown(UnknownReason::Namespace)), (2, ProbeResult::Dead)],
        "of one probe"
    );

    let server = serve_unix(UnixListener::bind(&path).unwrap(), b"\xff", 1);
    assert_eq!(find(&address), served_here(ProbeResult::Alive), "the registry compares it");
    server.join().unwrap();
}

#[test]
fn a_listener_that_does_not_accept_is_silent() {
    let (_directory, _listener, unix) = unix_listener();
    let (tcp, tcp_address) = tcp_listener();
    for (address, listener) in
        [(&unix, EndpointListener::Process(this_process())), (&tcp_address, inode_of(&tcp))]
    {
        let start = Instant::now();
        let mut prober = Prober::new(4);
        prober.start(1, address);
        prober.start_short(2, address);
        let silent = ProbeOutcome { result: ProbeResult::Silent, listener: Some(listener) };
        assert_eq!(prober.outcomes(1), [(2, silent)]);
        assert!(start.elapsed() >= SHORT);
        assert!(start.elapsed() < MAX_PATIENCE);
        assert_eq!(prober.outcomes(1), [(1, silent)]);
        assert!(start.elapsed() >= MAX_PATIENCE);
        prober.wait_until_idle();
    }
}

/// Two results in a row must come from two looks.
#[test]
fn a_request_that_joins_late_sees_the_silence_for_itself() {
    let (_directory, _listener, unix) = unix_listener();
    let (_tcp, tcp) = tcp_listener();
    for address in [unix, tcp] {
        let mut prober = Prober::new(4);
        prober.start(1, &address);
        prober.start_short(2, &address);
        assert_eq!(prober.results(1), [(2, ProbeResult::Silent)]);
        let joined = Instant::now();
        prober.start(3, &address);
        assert_eq!(prober.results(1), [(1, ProbeResult::Silent)]);
        assert_eq!(prober.results(1), [(3, ProbeResult::Silent)]);
        let waited = joined.elapsed();
        assert!(waited >= MAX_PATIENCE && waited < MAX_PATIENCE * 3 / 2, "{waited:?}");
        prober.wait_until_idle();
    }
}

/// A REGISTER that waits needs the present listener, not that of a second ago.
#[test]
fn a_short_request_gets_a_connection_of_its_own() {
    let (directory, _silent, address) = unix_listener();
    let mut prober = Prober::new(4);
    prober.start(1, &address);
    prober.start_short(2, &address);
    assert_eq!(prober.probes.by_id.len(), 1, "they begin together");
    assert_eq!(prober.results(1), [(2, ProbeResult::Silent)]);
    let path = directory.path().join("s");
    std::fs::remove_file(&path).unwrap();
    let server = serve_unix(UnixListener::bind(&path).unwrap(), b"\xff", 1);
    prober.start_short(3, &address);
    assert_eq!(prober.results(1), [(3, ProbeResult::Alive)]);
    server.join().unwrap();
    assert_eq!(prober.results(1), [(1, ProbeResult::Silent)]);
    prober.wait_until_idle();
}

/// A newcomer may have taken the address since.
#[test]
fn a_short_request_shares_no_probe_that_has_begun() {
    let (directory, _silent, address) = unix_listener();
    let mut prober = Prober::new(4);
    prober.start_short(1, &address);
    let is_connected =
        |probe: &Probe| matches!(probe.stage, Stage::InHelper { is_connected: true, .. });
    let until = Instant::now() + SHORT;
    while !prober.probes.by_id.values().any(is_connected) {
        assert_eq!(prober.round(until), [], "the probe has begun");
    }
    let path = directory.path().join("s");
    std::fs::remove_file(&path).unwrap();
    let server = serve_unix(UnixListener::bind(&path).unwrap(), b"\xff", 1);
    prober.start_short(2, &address);
    assert_eq!(prober.results(1), [(2, ProbeResult::Alive)]);
    server.join().unwrap();
    assert_eq!(prober.results(1), [(1, ProbeResult::Silent)]);
    prober.wait_until_idle();
}

#[test]
fn bytes_that_arrive_while_the_loop_is_late_count() {
    let (listener, address) = tcp_listener();
    let mut prober = Prober::new(4);
    let start = Instant::now();
    prober.start(1, &address);
    assert_eq!(prober.take(start), []);
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"\xff").unwrap();
    let found = prober.take(start + TEST_TIMEOUT);
    assert_eq!(found[0].1.result, ProbeResult::Alive);
}

#[test]
fn a_full_backlog_is_silent() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let connect = || {
        let socket = crate::edge::socket::unix_socket().unwrap();
        let address = SocketAddrUnix::new(&path).unwrap();
        rustix::net::connect(&socket, &address).ok().map(|()| socket)
    };
    let waiting: Vec<_> = std::iter::from_fn(connect).take(100).collect();
    assert!(waiting.len() < 100, "the backlog has an end");
    let start = Instant::now();
    assert_eq!(find(&ipc(&path)), ProbeResult::Silent.into());
    assert!(start.elapsed() < MAX_PATIENCE, "at once");
}

#[test]
fn a_full_backlog_over_tcp_is_silent_too() {
    let (listener, address) = reserved_tcp();
    rustix::net::listen(&listener, 0).unwrap();
    // Once its queue of connections is full, the kernel leaves others without an answer.
    let queued: Vec<_> = std::iter::from_fn(|| {
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok()
    })
    .take(100)
    .collect();
    assert!(queued.len() < 100, "the queue has an end");
    let silent = ProbeOutcome { result: ProbeResult::Silent, listener: Some(inode_of(&listener)) };
    assert_eq!(find(&format!("tcp://{address}")), silent, "a stopped publisher is not unreachable");
    drop(queued);
}

#[test]
fn a_host_without_an_answer_is_unreachable() {
    // The network for documentation: no host has such an address.
    let address = SocketAddr::from(([192, 0, 2, 1], 5555));
    let connected = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(50));
    if !connected.is_err_and(|error| error.kind() != io::ErrorKind::ConnectionRefused) {
        // A proxy answers for all hosts. The test runner does not capture this output.
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let _ = writeln!(io::stderr(), "not run: {name}: something answers at {address}");
        return;
    }
    let start = Instant::now();
    assert_eq!(find(&format!("tcp://{address}")), ProbeResult::Unreachable.into());
    assert!(start.elapsed() < MAX_PATIENCE * 2);
}

#[test]
fn a_listener_that_closes_connections_is_silent_or_unreachable() {
    let (_directory, listener, unix) = unix_listener();
    let server = std::thread::spawn(move || {
        for _ in 0..2 {
            drop(listener.accept().unwrap());
        }
        listener
    });
    assert_eq!(probe(&unix), ProbeResult::Silent);
    let listener = server.join().unwrap();
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "two attempts are enough");

    let (listener, tcp) = tcp_listener();
    let server = std::thread::spawn(move || {
        for _ in 0..2 {
            drop(listener.accept().unwrap());
        }
        listener
    });
    assert_eq!(find(&tcp), ProbeResult::Unreachable.into(), "as a proxy without its server");
    server.join().unwrap();
}

#[test]
fn a_listener_that_closes_meanwhile_is_dead() {
    let (_directory, listener, unix) = unix_listener();
    let mut prober = Prober::new(4);
    prober.start(1, &unix);
    while !prober.probes.by_id.values().any(|probe| probe.listener().is_some()) {
        assert_eq!(prober.round(Instant::now() + TEST_TIMEOUT), []);
    }
    drop(listener);
    assert_eq!(prober.results(1), [(1, ProbeResult::Dead)]);
    assert!(prober.is_idle());

    let (_reserved, address) = reserved_tcp();
    let listener = TcpListener::bind(address).unwrap();
    prober.start(2, &format!("tcp://{address}"));
    assert_eq!(prober.take(Instant::now()), []);
    // Taken and closed first, so that the connection is certainly there.
    drop(listener.accept().unwrap());
    drop(listener);
    assert_eq!(prober.results(1), [(2, ProbeResult::Dead)]);
}

#[test]
fn a_relative_path_is_that_of_its_process() {
    let (directory, listener, _) = unix_listener();
    let depth = std::env::current_dir().unwrap().components().count() - 1;
    let path = directory.path().join("s");
    let relative = format!("{}{}", "../".repeat(depth), path.strip_prefix("/").unwrap().display());
    let server = serve_unix(listener, b"\xff", 1);
    assert_eq!(find(&format!("ipc://{relative}")), served_here(ProbeResult::Alive));
    server.join().unwrap();
    assert_eq!(probe(&format!("ipc://{relative}-missing")), ProbeResult::Dead);

    // A process that has ended has no working directory.
    let before = Process { start_time: this_process().start_time - 1, ..this_process() };
    let mut prober = Prober::new(4);
    let mut late = request(1, &format!("ipc://{relative}"));
    late.owner.process = Some(before);
    prober.probes.start(late, Instant::now());
    assert_eq!(prober.results(1), [(1, unknown(UnknownReason::Address))]);
}

#[test]
fn the_own_host_name_leads_to_this_machine() {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let (listener, _) = tcp_listener();
    let listening = inode_of(&listener);
    let address = format!("tcp://{}:{}", name.trim(), port_of(&listener));
    let server = serve_tcp(listener);
    let alive = ProbeOutcome { result: ProbeResult::Alive, listener: Some(listening) };
    assert_eq!(find(&address), alive);

    // Also without a helper that could resolve it.
    let mut prober = Prober::with_helpers(4, [None, None]);
    prober.start(1, &address);
    let listener = server.join().unwrap();
    let silent = ProbeOutcome { result: ProbeResult::Silent, listener: Some(listening) };
    assert_eq!(prober.outcomes(1), [(1, silent)]);
    drop(listener);
}

#[test]
fn an_unresolvable_host_name_is_unknown() {
    let start = Instant::now();
    let mut prober = Prober::new(4);
    prober.start_short(1, "tcp://no-such-host.invalid:5555");
    assert_eq!(prober.results(1), [(1, unknown(UnknownReason::HostName))]);
    assert!(start.elapsed() < MAX_PATIENCE, "a slow resolver does not delay the result");
}

#[test]
fn a_helper_that_resolves_slowly_is_not_given_up_early() {
    let helper = Broken::new(Fault::Hangs);
    let mut prober = Prober::with_helpers(4, [None, Some(Box::new(helper.clone()))]);
    let start = Instant::now();
    prober.start(1, "tcp://robot-7.example:5555");
    assert_eq!(prober.take(start), []);
    let name = unknown(UnknownReason::HostName).into();
    assert_eq!(prober.take(Instant::now() + MAX_PATIENCE), [(1, name)]);
    assert_eq!(prober.take(start + NAME_TIMEOUT / 2), []);
    prober.start(2, "tcp://robot-8.example:5555");
    prober.take(start + NAME_TIMEOUT / 2);
    assert_eq!(helper.started(), 1);
    assert!(prober.probes.helpers.names.token().is_some());
    prober.take(Instant::now() + NAME_TIMEOUT);
    prober.start(3, "tcp://robot-9.example:5555");
    prober.take(Instant::now() + NAME_TIMEOUT);
    assert_eq!(helper.started(), 2);
}

#[test]
fn addresses_that_cannot_be_judged_are_unknown_at_once() {
    let mut container = request(1, "tcp://127.0.0.1:5555");
    container.owner.is_local = false;
    let mut prober = Prober::new(4);
    prober.probes.start(container, Instant::now());
    prober.start(2, "inproc://a");
    assert!(prober.probes.has_answers());
    let results: Vec<_> =
        prober.take(Instant::now()).iter().map(|(_, found)| found.result).collect();
    assert_eq!(results, [unknown(UnknownReason::Namespace), unknown(UnknownReason::Address)]);
    assert!(prober.is_idle());
}

#[test]
fn a_loop_of_links_is_no_address() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("loop");
    std::os::unix::fs::symlink(&link, &link).unwrap();
    assert_eq!(probe(&ipc(&link)), unknown(UnknownReason::Address));
}

#[test]
fn all_requests_for_a_target_share_one_probe() {
    const TOPICS: u64 = 1000;
    let (listener, address) = tcp_listener();
    let mut prober = Prober::new(2);
    for revision in 0..TOPICS {
        prober.start(revision, &address);
    }
    let start = Instant::now();
    assert_eq!(prober.take(start), []);
    assert!(!prober.probes.has_answers());
    // Requests while the probe runs.
    prober.start(TOPICS, &address);
    prober.start(TOPICS + 1, &address.replace("127.0.0.1", "[::ffff:127.0.0.1]"));
    assert_eq!(prober.probes.by_id.len(), 1);
    let mut found = prober.take(start + MAX_PATIENCE * 2);
    found.sort_unstable_by_key(|(revision, _)| *revision);
    let revisions: Vec<_> = found.iter().map(|(revision, _)| *revision).collect();
    assert_eq!(revisions, (0..TOPICS + 2).collect::<Vec<_>>(), "each request gets one answer");
    assert!(prober.is_idle());
    listener.set_nonblocking(true).unwrap();
    listener.accept().unwrap();
    assert!(listener.accept().is_err(), "one connection is enough");

    // Results are not kept.
    drop(listener);
    prober.start(1, &address);
    assert_eq!(prober.results(1), [(1, ProbeResult::Dead)]);
}

#[test]
fn a_thousand_probes_share_a_few_sockets() {
    let directory = tempfile::tempdir().unwrap();
    let (_reserved, refusing) = reserved_tcp();
    let mut prober = Prober::new(8);
    let mut expected = Vec::new();
    for index in 0..500 {
        prober.start(2 * index, &ipc(&directory.path().join(format!("missing-{index}"))));
        // Each is another address of the machine.
        let (low, high) = (index % 250 + 1, index / 250);
        prober.start(2 * index + 1, &format!("tcp://127.9.{high}.{low}:{}", refusing.port()));
        expected.extend([(2 * index, ProbeResult::Dead), (2 * index + 1, ProbeResult::Dead)]);
    }
    assert_eq!(prober.results(expected.len()), expected);
    assert!(prober.is_idle());
    assert!(prober.max_sockets <= 8, "{} sockets at once", prober.max_sockets);
}

#[test]
fn a_short_request_does_not_wait_behind_silent_endpoints() {
    let listeners: Vec<_> = std::iter::repeat_with(tcp_listener).take(20).collect();
    let (_reserved, refusing) = reserved_tcp();
    let mut prober = Prober::new(4);
    for (revision, (_, address)) in (0..).zip(&listeners) {
        prober.start(revision, address);
    }
    assert_eq!(prober.take(Instant::now()), []);
    assert_eq!(prober.probes.by_token.len(), 3);
    prober.start_short(99, &format!("tcp://{refusing}"));
    let start = Instant::now();
    assert_eq!(prober.results(1), [(99, ProbeResult::Dead)]);
    assert!(start.elapsed() < SHORT);

    // A short request also brings an address forward that waits already.
    let address = &listeners[19].1;
    prober.start_short(100, address);
    assert_eq!(prober.results(1), [(100, ProbeResult::Silent)]);
    assert!(start.elapsed() < MAX_PATIENCE);
}

#[test]
fn a_round_starts_a_bounded_number() {
    let mut prober = Prober::with_helpers(4, [None, None]);
    for revision in 0..=MAX_ROUND_STARTS as u64 {
        prober.start(revision, &format!("ipc:///tmp/no-such-folder/{revision}"));
    }
    assert_eq!(prober.take(Instant::now()).len(), MAX_ROUND_STARTS);
    assert!(prober.probes.has_answers());
    assert_eq!(prober.take(Instant::now()).len(), 1);
    assert!(prober.is_idle());
}

#[test]
fn without_a_helper_paths_and_names_are_unknown() {
    let missing: Option<Box<dyn Launch>> = Some(Box::new(Broken::new(Fault::IsMissing)));
    for helper in [None, missing] {
        let mut prober = Prober::with_helpers(4, [helper, None]);
        prober.start(1, "ipc:///tmp/s");
        prober.start(2, "tcp://other-host.example:5555");
        let (_reserved, refusing) = reserved_tcp();
        prober.start(3, &format!("tcp://{refusing}"));
        let failure = unknown(UnknownReason::Failure);
        assert_eq!(prober.results(3), [(1, failure), (2, failure), (3, ProbeResult::Dead)]);
        assert!(prober.is_idle());
    }
}

#[test]
fn a_helper_that_hangs_is_replaced() {
    let (mut prober, helper) = Prober::broken(Fault::Hangs);
    let start = Instant::now();
    prober.start(1, "ipc:///tmp/hung");
    assert_eq!(prober.take(start), []);
    assert_eq!(helper.started(), 1);
    let failure = unknown(UnknownReason::Failure).into();
    assert_eq!(prober.take(Instant::now() + MAX_PATIENCE), [(1, failure)], "nobody waits longer");
    assert_eq!(helper.started(), 1, "it may still answer");
    let hung = prober.probes.next_deadline().unwrap();
    assert_eq!(hung, start + PATH_TIMEOUT);

    prober.take(hung);
    assert!(prober.probes.helpers.paths.token().is_none(), "given up");
    prober.start(2, "ipc:///tmp/other");
    prober.take(hung);
    assert_eq!(helper.started(), 2);
    // The endpoint is left alone once it has hung twice.
    prober.probes.start(request(3, "ipc:///tmp/hung"), hung);
    assert_eq!(prober.take(hung), []);
    assert_eq!(prober.take(hung + PATH_TIMEOUT).len(), 2);
    prober.probes.start(request(4, "ipc:///tmp/hung"), hung + PATH_TIMEOUT);
    assert_eq!(prober.take(hung + PATH_TIMEOUT), [(4, failure)]);
}

#[test]
fn a_path_that_hangs_does_not_delay_others() {
    let (mut prober, helper) = Prober::broken(Fault::HangsAt("hung"));
    let (directory, listener, address) = unix_listener();
    let server = serve_unix(listener, b"\xff", 1);
    prober.start(1, "ipc:///tmp/hung");
    prober.start(2, &address);
    assert_eq!(prober.results(1), [(2, ProbeResult::Alive)]);
    server.join().unwrap();
    assert_eq!(prober.results(1), [(1, unknown(UnknownReason::Failure))]);
    let silent = UnixListener::bind(directory.path().join("silent")).unwrap();
    prober.start(3, &ipc(&directory.path().join("silent")));
    // When the helper is replaced before the silence has lasted long enough, the probe begins again.
    assert_eq!(prober.outcomes(1), [(3, served_here(ProbeResult::Silent))]);
    assert!(helper.started() <= 2);
    prober.wait_until_idle();
    drop(silent);
    // It certainly hangs there, since it has answered others.
    prober.start(4, "ipc:///tmp/hung");
    let failure = unknown(UnknownReason::Failure).into();
    assert_eq!(prober.take(Instant::now()), [(4, failure)]);
}

#[test]
fn after_too_many_hung_helpers_the_daemon_pauses() {
    let (mut prober, helper) = Prober::broken(Fault::Hangs);
    let mut now = Instant::now();
    for revision in 0..5 {
        prober.probes.start(request(revision, &format!("ipc:///tmp/hung-{revision}")), now);
        prober.take(now);
        now += PATH_TIMEOUT;
        prober.take(now);
    }
    assert_eq!(helper.started(), 5);
    let failure = unknown(UnknownReason::Failure).into();
    prober.probes.start(request(9, "ipc:///tmp/s"), now);
    assert_eq!(prober.take(now), [(9, failure)], "at once");
    assert_eq!(helper.started(), 5);
    now += Duration::from_secs(60);
    prober.probes.start(request(10, "ipc:///tmp/s"), now);
    assert_eq!(prober.take(now), []);
    assert_eq!(helper.started(), 6, "after the pause");
}

#[test]
fn a_probe_begins_again_when_its_helper_ends() {
    let (mut prober, helper) = Prober::broken(Fault::EndsOnce);
    prober.start(1, "ipc:///tmp/no-such-socket");
    assert_eq!(prober.results(1), [(1, ProbeResult::Dead)]);
    assert_eq!(helper.started(), 2);
    assert!(prober.is_idle());
}

#[test]
fn a_helper_that_talks_nonsense_is_given_up() {
    let (mut prober, helper) = Prober::broken(Fault::TalksNonsense);
    prober.start(1, "ipc:///tmp/no-such-socket");
    assert_eq!(prober.results(1), [(1, unknown(UnknownReason::Failure))]);
    assert_eq!(helper.started(), 2, "a probe begins again once");
    assert!(prober.is_idle());
}

#[test]
fn late_events_have_no_effect() {
    let (listener, address) = tcp_listener();
    let mut prober = Prober::new(4);
    prober.start(1, &address);
    assert_eq!(prober.take(Instant::now()), []);
    let token = *prober.probes.by_token.keys().next().unwrap();

    // Nothing has come yet.
    prober.probes.mark(token);
    prober.probes.mark(token);
    assert_eq!(prober.take(Instant::now()), []);
    listener.accept().unwrap().0.write_all(b"\xff").unwrap();
    assert_eq!(prober.results(1), [(1, ProbeResult::Alive)]);
    // The probe is over.
    prober.probes.mark(token);
    assert_eq!(prober.take(Instant::now()), []);
    assert!(prober.is_idle());
    assert!(!prober.probes.owns(Token(FIRST - 1)));
}

#[test]
fn a_descriptor_beyond_the_tokens_is_unknown() {
    let (_listener, address) = tcp_listener();
    let mut prober = Prober::new(4);
    prober.probes.tokens = Tokens::new(FIRST..FIRST + 1);
    prober.start(1, &address);
    prober.start(2, "ipc:///tmp/no-such-socket");
    let failure = unknown(UnknownReason::Failure);
    assert_eq!(prober.results(2), [(1, failure), (2, failure)]);
    assert!(prober.is_idle());
}

#[test]
fn without_a_descriptor_endpoints_are_unknown() {
    alone("without_a_descriptor_endpoints_are_unknown", || {
        let (_listener, address) = tcp_listener();
        let mut prober = Prober::new(4);
        this_process();
        let taken = take_all_descriptors();
        prober.start(0, &address);
        prober.start(1, "ipc:///tmp/no-such-socket");
        let failure = unknown(UnknownReason::Failure).into();
        let mut found = prober.take(Instant::now());
        found.sort_unstable_by_key(|(revision, _)| *revision);
        drop(taken);
        assert_eq!(found, [(0, failure), (1, failure)]);
        prober.start(2, "ipc:///tmp/no-such-socket");
        assert_eq!(prober.results(1), [(2, ProbeResult::Dead)], "as soon as there are some");
    });
}

#[test]
fn no_more_descriptors_are_taken_than_allowed_and_all_are_given_back() {
    alone("no_more_descriptors_are_taken_than_allowed_and_all_are_given_back", || {
        let tcp: Vec<_> = std::iter::repeat_with(tcp_listener).take(12).collect();
        let mut prober = Prober::new(4);
        let mut taken = take_all_descriptors();
        // The probes' sockets, and one to read the kernel's table of listeners.
        taken.truncate(taken.len() - 4);
        for (revision, (_, address)) in (0..).zip(&tcp) {
            prober.start(revision, address);
        }
        let mut now = Instant::now();
        let mut found = prober.take(now);
        while let Some(deadline) = prober.probes.next_deadline() {
            now = deadline;
            found.extend(prober.take(now));
        }
        found.sort_unstable_by_key(|(revision, _)| *revision);
        for ((revision, outcome), (expected, (listener, _))) in found.iter().zip((0..).zip(&tcp)) {
            let listener = Some(inode_of(listener));
            assert_eq!(*revision, expected);
            assert_eq!(*outcome, ProbeOutcome { result: ProbeResult::Silent, listener });
        }
        assert_eq!(found.len(), 12);
        assert!(prober.is_idle());
        assert_eq!(take_all_descriptors().len(), 4);
    });
}

/// The limit of descriptors is the whole process's: the test runs itself again, alone.
fn alone(test: &str, body: impl FnOnce()) {
    const ALONE: &str = "CORTEX_TEST_PROBE_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    let test = format!("edge::probe::tests::{test}");
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", &test]).env(ALONE, "1").stdout(Stdio::null());
    assert!(again.status().unwrap().success());
}

fn take_all_descriptors() -> Vec<File> {
    let limit = Rlimit { current: Some(64), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).unwrap();
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}
