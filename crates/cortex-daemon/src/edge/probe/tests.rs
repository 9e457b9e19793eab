use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use mio::{Events, Poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

use super::*;

const FIRST: usize = 1 << 32;
/// Far more than anything here takes.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

struct Prober {
    poll: Poll,
    probes: Probes,
    max_sockets: usize,
}

impl Prober {
    fn new(limit: usize) -> Self {
        let poll = Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let probes = Probes::new(registry, FIRST..FIRST + (1 << 24), limit);
        Self { poll, probes, max_sockets: 0 }
    }

    fn start(&mut self, revision: u64, address: &str) {
        self.probes.start(TopicName::new("/topic").unwrap(), revision, address);
    }

    /// One round of a loop, which waits until `until` at the latest.
    fn round(&mut self, until: Instant) -> Vec<(u64, ProbeResult)> {
        let mut events = Events::with_capacity(64);
        let deadline = self.probes.next_deadline().map_or(until, |at| at.min(until));
        let wait = if self.probes.has_results() {
            Duration::ZERO
        } else {
            deadline.saturating_duration_since(Instant::now())
        };
        self.poll.poll(&mut events, Some(wait)).unwrap();
        for event in &events {
            assert!(self.probes.owns(event.token()));
            self.probes.mark(event.token());
        }
        let results = self.take(Instant::now());
        self.max_sockets = self.max_sockets.max(self.probes.running.len());
        results
    }

    fn take(&mut self, now: Instant) -> Vec<(u64, ProbeResult)> {
        let mut found = Vec::new();
        self.probes.take_results(now, &mut found);
        found.into_iter().map(|(_, revision, result)| (revision, result)).collect()
    }

    /// The next `count` results, by revision.
    fn results(&mut self, count: usize) -> Vec<(u64, ProbeResult)> {
        let until = Instant::now() + TEST_TIMEOUT;
        let mut found = Vec::new();
        while found.len() < count {
            assert!(Instant::now() < until, "{} of {count} results", found.len());
            found.extend(self.round(until));
        }
        found.sort_unstable_by_key(|(revision, _)| *revision);
        found
    }

    fn is_idle(&self) -> bool {
        let probes = &self.probes;
        let queues = [&probes.untried_unix, &probes.untried_tcp, &probes.tried];
        probes.running.is_empty()
            && queues.iter().all(|queue| queue.is_empty())
            && probes.requests.is_empty()
            && !probes.has_results()
    }
}

fn probe(address: &str) -> ProbeResult {
    let mut prober = Prober::new(4);
    prober.start(1, address);
    let found = prober.results(1);
    assert!(prober.is_idle());
    assert_eq!(prober.probes.next_deadline(), None);
    found[0].1
}

fn result_at_once(address: &str) -> ProbeResult {
    let mut prober = Prober::new(4);
    prober.start(1, address);
    assert!(prober.probes.has_results());
    let found = prober.take(Instant::now());
    assert_eq!(found.len(), 1, "{address}");
    assert!(prober.is_idle());
    found[0].1
}

fn ipc(path: &Path) -> String {
    format!("ipc://{}", path.display())
}

fn unix_listener() -> (TempDir, UnixListener, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    (directory, listener, ipc(&path))
}

fn full_listener() -> (TempDir, OwnedFd, Vec<UnixStream>, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let waiting: Vec<_> =
        std::iter::from_fn(|| UnixStream::connect(&path).ok()).take(100).collect();
    assert!(waiting.len() < 100, "the backlog has an end");
    (directory, listener, waiting, ipc(&path))
}

fn tcp_listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    (listener, address)
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

/// Another address of the same listener.
fn alias(directory: &TempDir, index: u64) -> String {
    let path = directory.path().join(index.to_string());
    std::os::unix::fs::symlink("s", &path).unwrap();
    ipc(&path)
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
        assert_eq!(probe(&address), result, "{words:?}");
        server.join().unwrap();
    }
}

#[test]
fn a_greeting_is_recognized_over_tcp() {
    for host in ["127.0.0.1", "::1"] {
        let Ok(listener) = TcpListener::bind((host, 0)) else {
            assert_eq!(host, "::1", "only IPv6 may be missing");
            continue;
        };
        let address = format!("tcp://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"\xff").unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "a probe sends nothing");
        });
        assert_eq!(probe(&address), ProbeResult::Alive);
        server.join().unwrap();
    }
}

#[test]
#[cfg(target_os = "linux")]
fn abstract_sockets_are_found() {
    let name = format!("cortex-probe-test-{}", std::process::id());
    let address = format!("ipc://@{name}");
    assert_eq!(result_at_once(&address), ProbeResult::Dead);
    let listener = UnixListener::bind_addr(&abstract_address(&name).unwrap()).unwrap();
    let server = serve_unix(listener, b"\xff", 1);
    assert_eq!(probe(&address), ProbeResult::Alive);
    server.join().unwrap();
}

#[test]
fn endpoints_without_a_listener_are_dead_at_once() {
    let (directory, listener, address) = unix_listener();
    drop(listener);
    assert_eq!(result_at_once(&address), ProbeResult::Dead, "a socket file without a socket");
    assert_eq!(result_at_once(&ipc(&directory.path().join("missing"))), ProbeResult::Dead);
    assert_eq!(result_at_once(&ipc(&directory.path().join("no/such"))), ProbeResult::Dead);
    let file = directory.path().join("file");
    std::fs::write(&file, "text").unwrap();
    assert_eq!(result_at_once(&ipc(&file)), ProbeResult::Dead, "a file is no socket");
    let (_reserved, refusing) = reserved_tcp();
    assert_eq!(probe(&format!("tcp://{refusing}")), ProbeResult::Dead);
}

#[test]
fn a_listener_that_does_not_accept_is_silent() {
    let (_directory, _listener, unix) = unix_listener();
    let mut prober = Prober::new(4);
    let start = Instant::now();
    prober.start(1, &unix);
    assert_eq!(prober.take(start), []);
    assert_eq!(prober.probes.next_deadline(), Some(start + FULL_TIMEOUT));
    assert!(!prober.probes.has_results());
    assert_eq!(prober.take(start + FULL_TIMEOUT * 999 / 1000), []);
    assert_eq!(prober.take(start + FULL_TIMEOUT), [(1, ProbeResult::Silent)]);
    assert!(prober.is_idle());

    let (_listener, tcp) = tcp_listener();
    assert_eq!(probe(&tcp), ProbeResult::Silent);
}

#[test]
fn bytes_that_arrive_while_the_loop_is_late_count() {
    let (_directory, listener, address) = unix_listener();
    let mut prober = Prober::new(4);
    let start = Instant::now();
    prober.start(1, &address);
    assert_eq!(prober.take(start), []);
    listener.accept().unwrap().0.write_all(b"\xff").unwrap();
    assert_eq!(prober.take(start + TEST_TIMEOUT), [(1, ProbeResult::Alive)]);
}

#[test]
fn a_full_backlog_is_silent_at_once() {
    let (_directory, _listener, _waiting, address) = full_listener();
    assert_eq!(result_at_once(&address), ProbeResult::Silent);
}

#[test]
fn a_host_that_does_not_answer_is_unknown_after_a_second() {
    let (listener, address) = reserved_tcp();
    rustix::net::listen(&listener, 0).unwrap();
    // Once its queue of connections is full, the kernel leaves others without an answer.
    let queued: Vec<_> = std::iter::from_fn(|| {
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok()
    })
    .take(100)
    .collect();
    assert!(queued.len() < 100, "the queue has an end");

    let start = Instant::now();
    assert_eq!(probe(&format!("tcp://{address}")), ProbeResult::Unknown(UnknownReason::Failure));
    let took = start.elapsed();
    assert!(took >= FULL_TIMEOUT, "{took:?}");
    assert!(took < FULL_TIMEOUT * 3, "{took:?}");
    drop(queued);
}

#[test]
fn a_listener_that_closes_connections_is_silent() {
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
    assert_eq!(probe(&tcp), ProbeResult::Silent);
    server.join().unwrap();
}

#[test]
fn a_listener_that_closes_meanwhile_is_dead() {
    let (_directory, listener, unix) = unix_listener();
    let mut prober = Prober::new(4);
    prober.start(1, &unix);
    assert_eq!(prober.take(Instant::now()), []);
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
fn a_new_listener_at_the_same_path_is_alive() {
    let (directory, listener, address) = unix_listener();
    let mut prober = Prober::new(4);
    prober.start(1, &address);
    assert_eq!(prober.take(Instant::now()), []);
    drop(listener);
    let path = directory.path().join("s");
    std::fs::remove_file(&path).unwrap();
    let server = serve_unix(UnixListener::bind(&path).unwrap(), b"\xff", 1);
    assert_eq!(prober.results(1), [(1, ProbeResult::Alive)]);
    server.join().unwrap();
}

#[test]
fn endpoints_that_cannot_be_probed_are_unknown_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("loop");
    std::os::unix::fs::symlink(&link, &link).unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "text").unwrap();
    let long = format!("ipc:///{}", "x".repeat(MAX_SOCKET_PATH));
    let long_name = format!("ipc://@{}", "x".repeat(MAX_SOCKET_PATH));
    for address in [
        "",
        "nonsense",
        "/tmp/s",
        "ipc",
        "ipc://",
        "ipc://*",
        "ipc://@",
        "ipc://relative.sock",
        "ipc://./s",
        "ipc:///tmp/a\0b",
        "ipc://@a\0b",
        "IPC:///tmp/s",
        "inproc://a",
        "pgm://eth0;239.192.1.1:5555",
        "epgm://239.192.1.1:5555",
        "udp://127.0.0.1:5555",
        "ws://127.0.0.1:5555",
        "tcp://",
        "tcp://*:5555",
        "tcp://*:*",
        "tcp://0.0.0.0:5555",
        "tcp://[::]:5555",
        "tcp://[::ffff:0.0.0.0]:5555",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:*",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:5555/path",
        "tcp://127.0.0.1:5555;127.0.0.1:5556",
        "tcp://::1:5555",
        "tcp://localhost:5555",
        "tcp://robot.local:5555",
        "tcp://eth0:5555",
        // A loop of links, a file as a directory, and what TCP cannot connect to.
        &ipc(&link),
        &ipc(&file.join("s")),
        "tcp://255.255.255.255:5555",
        &long,
        &long_name,
    ] {
        assert_eq!(
            result_at_once(address),
            ProbeResult::Unknown(UnknownReason::Failure),
            "{address}"
        );
    }
}

#[test]
fn the_longest_path_is_probed() {
    let longest = format!("/tmp/{}", "x".repeat(MAX_SOCKET_PATH - 5));
    assert!(parse_unix(&longest).is_some());
    assert!(parse_unix(&format!("{longest}x")).is_none());
}

#[test]
fn a_socket_that_is_connected_to_itself_is_dead() {
    let (socket, address) = reserved_tcp();
    let stream = std::net::TcpStream::from(socket);
    rustix::net::connect(&stream, &address).unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut probe = Probe {
        target: Target {
            address: format!("tcp://{address}").into(),
            endpoint: Endpoint::Tcp(address),
        },
        kind: ProbeKind::Full,
        deadline: Instant::now(),
        attempt: ConnectAttempt::First,
        stream: Stream::Tcp(TcpStream::from_std(stream)),
    };
    assert_eq!(probe.poll(), Some(Observation::Judged(ProbeResult::Dead)));
}

#[test]
fn a_thousand_probes_share_a_few_sockets() {
    const EACH: u64 = 250;
    let (directory, listener, greeting) = unix_listener();
    // The number of connections varies with the quick probes: serves until a peer sends a byte.
    let server = std::thread::spawn(move || {
        loop {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
            let _ = stream.write_all(b"\xff");
            match stream.read(&mut [0]) {
                Ok(0) => {}
                Ok(_) => break,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
            }
        }
    });
    let (_reserved, refusing) = reserved_tcp();
    let refusing = format!("tcp://{refusing}");
    let mut prober = Prober::new(16);
    let mut expected = Vec::new();
    for index in 0..EACH {
        let cases = [
            (alias(&directory, index), ProbeResult::Alive),
            (ipc(&directory.path().join(format!("missing-{index}"))), ProbeResult::Dead),
            (refusing.clone(), ProbeResult::Dead),
            ("tcp://name:1".to_owned(), ProbeResult::Unknown(UnknownReason::Failure)),
        ];
        for (revision, (address, result)) in (4 * index..).zip(cases) {
            prober.start(revision, &address);
            expected.push((revision, result));
        }
    }
    assert_eq!(prober.results(expected.len()), expected);
    assert!(prober.is_idle());
    assert!(prober.max_sockets <= 16, "{} sockets at once", prober.max_sockets);
    let path = greeting.strip_prefix("ipc://").unwrap();
    assert!(!server.is_finished(), "a probe sends nothing");
    std::os::unix::net::UnixStream::connect(path).unwrap().write_all(b"stop").unwrap();
    server.join().unwrap();
}

#[test]
fn a_round_starts_a_bounded_number() {
    let directory = tempfile::tempdir().unwrap();
    let mut prober = Prober::new(4);
    for revision in 0..=MAX_ROUND_STARTS as u64 {
        prober.start(revision, &ipc(&directory.path().join(revision.to_string())));
    }
    assert_eq!(prober.take(Instant::now()).len(), MAX_ROUND_STARTS);
    assert!(prober.probes.has_results());
    assert_eq!(prober.take(Instant::now()).len(), 1);
    assert!(prober.is_idle());
}

#[test]
fn all_requests_for_an_address_share_one_probe() {
    const TOPICS: u64 = 1000;
    let (directory, listener, silent) = unix_listener();
    let mut prober = Prober::new(2);
    let mut expected = Vec::new();
    for revision in 0..TOPICS {
        let name = TopicName::new(format!("/topic{revision}")).unwrap();
        prober.probes.start(name.clone(), revision, &silent);
        expected.push((name, revision, ProbeResult::Silent));
    }
    prober.start(TOPICS, &ipc(&directory.path().join("missing")));
    let start = Instant::now();
    assert_eq!(prober.take(start), [(TOPICS, ProbeResult::Dead)], "in the first round");
    assert!(!prober.probes.has_results());

    // A request while the probe runs.
    let late = TopicName::new("/late").unwrap();
    prober.probes.start(late.clone(), 1, &silent);
    expected.push((late, 1, ProbeResult::Silent));
    assert!(!prober.probes.has_results());
    let mut found = Vec::new();
    prober.probes.take_results(start + FULL_TIMEOUT, &mut found);
    assert_eq!(found, expected, "each request gets one result");
    assert!(prober.is_idle());
    listener.set_nonblocking(true).unwrap();
    listener.accept().unwrap();
    assert!(listener.accept().is_err(), "one connection is enough");

    // Results are not kept.
    drop(listener);
    prober.start(1, &silent);
    assert_eq!(prober.take(start), [(1, ProbeResult::Dead)]);
}

#[test]
fn silent_endpoints_do_not_delay_dead_ones() {
    const SILENT: u64 = 500;
    const DEAD: u64 = 20;
    let (directory, _listener, _) = unix_listener();
    let mut prober = Prober::new(64);
    for revision in 0..SILENT {
        prober.start(revision, &alias(&directory, revision));
    }
    let dead: Vec<_> = (SILENT..SILENT + DEAD).map(|index| (index, ProbeResult::Dead)).collect();
    for (revision, _) in &dead {
        prober.start(*revision, &ipc(&directory.path().join(format!("missing-{revision}"))));
    }

    let start = Instant::now();
    let mut found = Vec::new();
    for _ in 0..(SILENT + DEAD).div_ceil(MAX_ROUND_STARTS as u64) {
        assert!(prober.probes.has_results());
        found.extend(prober.take(start));
    }
    assert_eq!(found, dead, "without waiting");
    assert!(!prober.probes.has_results(), "there is nothing to do but wait");
    assert_eq!(prober.probes.next_deadline(), Some(start + FULL_TIMEOUT));

    // The others are probed in order.
    let sockets = prober.probes.running.len() as u64;
    assert_eq!(sockets, 48);
    for (turn, first) in (1..).zip((0..SILENT).step_by(48)) {
        let mut found = prober.take(start + FULL_TIMEOUT * turn);
        found.sort_unstable_by_key(|(revision, _)| *revision);
        let next = first..SILENT.min(first + sockets);
        assert_eq!(found, next.map(|index| (index, ProbeResult::Silent)).collect::<Vec<_>>());
    }
    assert!(prober.is_idle());
}

#[test]
fn an_endpoint_that_dies_in_the_queue_is_dead() {
    let (directory, _listener, silent) = unix_listener();
    let path = directory.path().join("other");
    let other = UnixListener::bind(&path).unwrap();
    let mut prober = Prober::new(1);
    prober.start(1, &silent);
    prober.start(2, &ipc(&path));
    let start = Instant::now();
    assert_eq!(prober.take(start), []);
    drop(other);
    assert!(!prober.probes.has_results());
    assert_eq!(
        prober.take(start + FULL_TIMEOUT),
        [(1, ProbeResult::Silent), (2, ProbeResult::Dead)]
    );
    assert!(prober.is_idle());
}

#[test]
fn a_full_backlog_is_silent_without_a_socket() {
    let (_directory, _listener, silent) = unix_listener();
    let (_full_directory, _full_listener, _waiting, full) = full_listener();
    let mut prober = Prober::new(1);
    prober.start(1, &silent);
    prober.start(2, &full);
    prober.start(3, &ipc(Path::new("/dev/null/s")));
    let found = prober.take(Instant::now());
    assert_eq!(
        found,
        [(2, ProbeResult::Silent), (3, ProbeResult::Unknown(UnknownReason::Failure))]
    );
}

#[test]
fn the_loop_sleeps_while_no_probe_can_start() {
    let listeners: Vec<_> = std::iter::repeat_with(tcp_listener).take(3).collect();
    let mut prober = Prober::new(2);
    for (revision, (_, address)) in (0..).zip(&listeners) {
        prober.start(revision, address);
    }
    assert!(prober.probes.has_results());
    let start = Instant::now();
    for wake_up in [start, start + QUICK_TIMEOUT, start + QUICK_TIMEOUT * 2, start + FULL_TIMEOUT] {
        let found = prober.take(wake_up);
        let expected = if wake_up == start + FULL_TIMEOUT { vec![0] } else { vec![] };
        assert_eq!(found.iter().map(|(revision, _)| *revision).collect::<Vec<_>>(), expected);
        assert!(!prober.probes.has_results());
        assert!(prober.probes.next_deadline().unwrap() > wake_up);
    }
    assert_eq!(prober.take(start + FULL_TIMEOUT * 2), [(1, ProbeResult::Silent)]);
    assert_eq!(prober.take(start + FULL_TIMEOUT * 3), [(2, ProbeResult::Silent)]);
    assert!(prober.is_idle());
}

#[test]
fn a_refusal_is_found_behind_silent_endpoints() {
    let listeners: Vec<_> = std::iter::repeat_with(tcp_listener).take(20).collect();
    let (_reserved, refusing) = reserved_tcp();
    let mut prober = Prober::new(4);
    for (revision, (_, address)) in (0..).zip(&listeners) {
        prober.start(revision, address);
    }
    prober.start(99, &format!("tcp://{refusing}"));
    let found = prober.results(1);
    assert_eq!(found, [(99, ProbeResult::Dead)], "before any silent endpoint");
    assert!(prober.max_sockets <= 4, "{} sockets at once", prober.max_sockets);
}

#[test]
fn some_sockets_are_only_for_quick_probes() {
    for (limit, full) in [(0, 1), (1, 1), (2, 1), (3, 2), (4, 3), (8, 6), (63, 48), (64, 48)] {
        let (directory, _listener, _) = unix_listener();
        let mut prober = Prober::new(limit);
        for revision in 0..64 {
            prober.start(revision, &alias(&directory, revision));
        }
        assert_eq!(prober.take(Instant::now()), []);
        assert_eq!(prober.probes.running.len(), full, "of {limit}");
        assert!(!prober.probes.has_results());
    }
}

#[test]
fn late_events_have_no_effect() {
    let (_directory, listener, address) = unix_listener();
    let mut prober = Prober::new(4);
    prober.start(1, &address);
    assert_eq!(prober.take(Instant::now()), []);
    let token = *prober.probes.running.keys().next().unwrap();

    // Nothing has come yet.
    prober.probes.mark(token);
    assert_eq!(prober.take(Instant::now()), []);
    prober.probes.mark(token);
    prober.probes.mark(token);
    listener.accept().unwrap().0.write_all(b"\xff").unwrap();
    assert_eq!(prober.take(Instant::now()), [(1, ProbeResult::Alive)]);
    // The probe is over.
    prober.probes.mark(token);
    assert!(prober.is_idle());
    // Its descriptor's number may belong to the next one.
    prober.start(2, &address);
    assert_eq!(prober.take(Instant::now()), []);
    prober.probes.mark(token);
    assert_eq!(prober.take(Instant::now()), []);
    assert!(!prober.probes.owns(Token(FIRST - 1)));
}

#[test]
fn one_probe_at_a_time_is_the_least() {
    let directory = tempfile::tempdir().unwrap();
    let mut prober = Prober::new(0);
    prober.start(1, &ipc(&directory.path().join("missing")));
    assert_eq!(prober.results(1), [(1, ProbeResult::Dead)]);
}

#[test]
fn a_descriptor_beyond_the_tokens_is_unknown() {
    let (_directory, _listener, address) = unix_listener();
    let mut prober = Prober::new(4);
    prober.probes.tokens = Tokens::new(FIRST..FIRST + 1);
    prober.start(1, &address);
    assert_eq!(prober.take(Instant::now()), [(1, ProbeResult::Unknown(UnknownReason::Failure))]);
}

#[test]
fn without_a_descriptor_endpoints_are_unknown() {
    alone("without_a_descriptor_endpoints_are_unknown", || {
        let (directory, _listener, address) = unix_listener();
        let missing = ipc(&directory.path().join("missing"));
        let mut prober = Prober::new(4);
        let taken = take_all_descriptors();
        for (revision, address) in [&address, &missing].into_iter().enumerate() {
            prober.start(revision as u64, address);
        }
        let found = prober.take(Instant::now());
        drop(taken);
        assert_eq!(
            found,
            [
                (0, ProbeResult::Unknown(UnknownReason::Failure)),
                (1, ProbeResult::Unknown(UnknownReason::Failure))
            ]
        );
    });
}

#[test]
fn no_more_descriptors_are_taken_than_allowed_and_all_are_given_back() {
    alone("no_more_descriptors_are_taken_than_allowed_and_all_are_given_back", || {
        let (directory, _listener, _) = unix_listener();
        let tcp: Vec<_> = std::iter::repeat_with(tcp_listener).take(12).collect();
        let mut prober = Prober::new(4);
        let mut addresses: Vec<_> = tcp.iter().map(|(_, address)| address.clone()).collect();
        addresses.extend((0..12).map(|index| alias(&directory, index)));

        let mut taken = take_all_descriptors();
        taken.truncate(taken.len() - 5);
        for (revision, address) in (0..).zip(&addresses) {
            prober.start(revision, address);
        }
        let mut now = Instant::now();
        let mut found = prober.take(now);
        while let Some(deadline) = prober.probes.next_deadline() {
            now = deadline;
            found.extend(prober.take(now));
        }
        found.sort_unstable_by_key(|(revision, _)| *revision);
        let silent: Vec<_> = (0..24).map(|revision| (revision, ProbeResult::Silent)).collect();
        assert_eq!(found, silent, "four descriptors and one to try with are enough");
        assert!(prober.is_idle());
        assert_eq!(take_all_descriptors().len(), 5);
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
