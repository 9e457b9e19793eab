//! The daemon as a process: start, addresses, files, exit and log.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use cortex_proto::{DiscoveryRequest, DiscoveryStatus};
use cortex_tests::daemon::{Daemon, DaemonBuilder};
use cortex_tests::deadline::{TIMEOUT, eventually};
use cortex_tests::messages::{topic, topic_names};
use cortex_tests::process::{Process, ProcessOutput};
use cortex_tests::python::ReferenceDaemon;
use cortex_tests::raw_peer::{self, RawPeer};
use cortex_tests::test_dir::{TestDir, ipc_address};
use cortex_tests::zmq_peer::ZmqPeer;
use cortex_tests::{report_skipped, transcript};
use rustix::process::Signal;
use serde_json::Value;

fn assert_cleaned_up(test_dir: &TestDir) {
    assert!(!test_dir.socket().exists(), "the socket is gone");
    assert!(!test_dir.lock_file().exists(), "the lock is gone");
}

/// Checks that the daemon exited with this code and one sentence, without a backtrace.
fn assert_error_message(output: &ProcessOutput, code: i32, words: &[&str]) {
    assert_eq!(output.code, Some(code), "{}", output.stderr);
    for word in words {
        assert!(output.stderr.contains(word), "`{word}` is not in: {}", output.stderr);
    }
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    for line in output.stderr.lines() {
        let reasons = line.matches("(os error").count();
        assert!(reasons <= 1, "the system's reason appears {reasons} times: {line}");
    }
}

fn assert_startup_error(output: &ProcessOutput, words: &[&str]) {
    assert!(matches!(output.code, Some(1 | 2)), "{:?}: {}", output.code, output.stderr);
    assert_error_message(output, output.code.unwrap_or_default(), words);
}

fn register(address: &str, name: &str) -> DiscoveryStatus {
    ZmqPeer::req(address).request(&DiscoveryRequest::register(topic(name, "node"))).status
}

#[test]
fn sigint_sigterm_and_sighup_stop_the_daemon_and_it_removes_its_files() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let daemon = Daemon::start();
        let test_dir = daemon.test_dir().clone();
        assert!(test_dir.lock_file().exists(), "the daemon has a lock file while it runs");
        let _connected = RawPeer::open(daemon.address()).unwrap();
        daemon.signal(signal);
        assert_eq!(daemon.wait().code, Some(0), "{signal:?}");
        assert_cleaned_up(&test_dir);
    }
}

#[test]
fn a_signal_stops_the_daemon_cleanly_as_soon_as_its_socket_exists() {
    for _ in 0..20 {
        let test_dir = TestDir::new();
        let process = DaemonBuilder::at(&test_dir).spawn();
        let deadline = Instant::now() + TIMEOUT;
        // No pause: the signal must arrive right after the socket appears.
        while !test_dir.socket().exists() {
            assert!(Instant::now() < deadline, "no socket appears");
        }
        process.signal(Signal::TERM);
        let output = process.wait();
        assert_eq!((output.code, output.signal), (Some(0), None), "{}", output.stderr);
        assert_cleaned_up(&test_dir);
    }
}

#[test]
fn the_reply_to_shutdown_arrives_before_the_daemon_exits() {
    for _ in 0..10 {
        let daemon = DaemonBuilder::at(&TestDir::new()).with_tcp().start();
        let test_dir = daemon.test_dir().clone();
        let [ipc, tcp] = [&daemon.addresses()[0], &daemon.addresses()[1]];
        let _connected = ZmqPeer::req(tcp);
        let reply = ZmqPeer::req(ipc).request(&DiscoveryRequest::shutdown());
        assert_eq!((reply.status, reply.message.as_str()), (DiscoveryStatus::Ok, "Shutting down"));
        assert_eq!(daemon.wait().code, Some(0));
        assert_cleaned_up(&test_dir);
    }
}

#[test]
fn the_reply_to_shutdown_arrives_over_tcp_too() {
    for _ in 0..10 {
        let daemon = Daemon::start_tcp_with_remote_shutdown();
        let reply = ZmqPeer::req(daemon.address()).request(&DiscoveryRequest::shutdown());
        assert_eq!(reply.message, "Shutting down");
        assert_eq!(daemon.wait().code, Some(0));
    }
}

#[test]
fn over_tcp_shutdown_needs_the_remote_shutdown_option() {
    let daemon = DaemonBuilder::at(&TestDir::new()).with_tcp().start();
    let [ipc, tcp] = daemon.addresses() else { panic!("two addresses") };
    let stranger = ZmqPeer::req(tcp);
    let reply = stranger.request(&DiscoveryRequest::shutdown());
    assert_eq!((reply.status, reply.topics.len()), (DiscoveryStatus::Error, 0));
    assert!(reply.message.contains("not shut down"), "{}", reply.message);
    daemon.process().stderr_line("a warning about the refusal", |line| {
        (line.contains("WARN") && line.contains(&reply.message)).then_some(())
    });
    assert_eq!(stranger.request(&DiscoveryRequest::ping()).message, "pong");
    let allowed = ZmqPeer::req(ipc).request(&DiscoveryRequest::shutdown());
    assert_eq!(allowed.message, "Shutting down");
    assert_eq!(daemon.wait().code, Some(0));
}

#[test]
fn a_peer_that_reads_no_replies_cannot_delay_the_exit() {
    for by_signal in [true, false] {
        let daemon = Daemon::start();
        let peer = ZmqPeer::req(daemon.address());
        for number in 0..100 {
            let name = format!("/{number}");
            let _ = peer.request(&DiscoveryRequest::register(topic(&name, "node")));
        }
        let mut stalled = RawPeer::open(daemon.address()).unwrap();
        stalled
            .send(&raw_peer::request_message(&DiscoveryRequest::list().to_bytes()).repeat(1000))
            .unwrap();
        if by_signal {
            daemon.signal(Signal::TERM);
        } else {
            assert_eq!(peer.request(&DiscoveryRequest::shutdown()).message, "Shutting down");
        }
        assert_eq!(daemon.wait().code, Some(0));
    }
}

#[test]
fn a_second_daemon_refuses_an_address_in_use_and_leaves_the_first_daemon_alone() {
    let daemon = Daemon::start();
    assert_eq!(register(daemon.address(), "/kept"), DiscoveryStatus::Ok);
    let before = fs::metadata(daemon.test_dir().socket()).unwrap().ino();
    for _ in 0..3 {
        let second = DaemonBuilder::at(daemon.test_dir()).run();
        assert_error_message(&second, 5, &[daemon.address()]);
    }
    assert_eq!(fs::metadata(daemon.test_dir().socket()).unwrap().ino(), before);
    assert!(daemon.test_dir().lock_file().exists());
    let list = ZmqPeer::req(daemon.address()).request(&DiscoveryRequest::list());
    assert_eq!(topic_names(&list), ["/kept"]);
}

#[test]
fn of_several_daemons_started_at_once_one_serves() {
    for _ in 0..10 {
        let test_dir = TestDir::new();
        let mut rivals: Vec<_> = (0..4).map(|_| DaemonBuilder::at(&test_dir).spawn()).collect();
        eventually("all daemons but one have exited", TIMEOUT, || {
            let exited =
                rivals.iter_mut().filter_map(|rival| rival.has_exited().then_some(())).count();
            (exited == 3).then_some(())
        });
        eventually("the last daemon serves", TIMEOUT, || raw_peer::ping(&test_dir.address()).ok());
        let (exited, mut serving): (Vec<_>, Vec<_>) =
            rivals.into_iter().map(|mut rival| (rival.has_exited(), rival)).partition(|(e, _)| *e);
        for (_, rival) in exited {
            assert_error_message(&rival.wait(), 5, &[&test_dir.address()]);
        }
        let (_, serving) = serving.pop().unwrap();
        serving.signal(Signal::TERM);
        assert_eq!(serving.wait().code, Some(0));
        assert_cleaned_up(&test_dir);
    }
}

#[test]
fn the_daemon_does_not_take_the_address_of_a_running_reference_daemon() {
    let test_dir = TestDir::new();
    let _reference = ReferenceDaemon::start(&test_dir);
    let peer = ZmqPeer::req(&test_dir.address());
    assert_eq!(peer.request(&DiscoveryRequest::ping()).message, "pong");

    assert_error_message(&DaemonBuilder::at(&test_dir).run(), 5, &[&test_dir.address()]);
    assert_eq!(peer.request(&DiscoveryRequest::ping()).message, "pong");
    assert_eq!(
        register(&test_dir.address(), "/new"),
        DiscoveryStatus::Ok,
        "new peers reach the reference daemon"
    );
}

#[test]
fn the_daemon_starts_over_the_socket_and_lock_of_a_killed_daemon() {
    let test_dir = TestDir::new();
    for _ in 0..3 {
        let daemon = DaemonBuilder::at(&test_dir).start();
        let killed = daemon.kill();
        assert_eq!(killed.signal, Some(9));
        assert!(
            test_dir.socket().exists() && test_dir.lock_file().exists(),
            "a killed daemon leaves its files"
        );
    }
    let daemon = DaemonBuilder::at(&test_dir).start();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code, Some(0));
    assert_cleaned_up(&test_dir);
}

#[test]
fn a_file_that_is_not_a_socket_is_refused_and_left_alone() {
    let test_dir = TestDir::new();
    fs::write(test_dir.socket(), "precious").unwrap();
    assert_startup_error(
        &DaemonBuilder::at(&test_dir).run(),
        &[test_dir.socket().to_str().unwrap()],
    );
    assert_eq!(fs::read_to_string(test_dir.socket()).unwrap(), "precious");

    let test_dir = TestDir::new();
    fs::create_dir(test_dir.socket()).unwrap();
    assert_startup_error(
        &DaemonBuilder::at(&test_dir).run(),
        &[test_dir.socket().to_str().unwrap()],
    );
    assert!(test_dir.socket().is_dir());
}

#[test]
fn the_daemon_exits_with_an_error_when_its_socket_is_removed() {
    let daemon = Daemon::start();
    let test_dir = daemon.test_dir().clone();
    fs::remove_file(test_dir.socket()).unwrap();
    let output = daemon.wait();
    assert_startup_error(&output, &[test_dir.socket().to_str().unwrap()]);
    assert!(!test_dir.socket().exists());
}

#[test]
fn the_daemon_exits_with_an_error_when_its_socket_is_replaced() {
    let daemon = Daemon::start();
    let test_dir = daemon.test_dir().clone();
    let other = test_dir.path("other.sock");
    let _listener = UnixListener::bind(&other).unwrap();
    let number = fs::metadata(&other).unwrap().ino();
    fs::rename(other, test_dir.socket()).unwrap();
    let output = daemon.wait();
    assert_startup_error(&output, &[test_dir.socket().to_str().unwrap()]);
    assert_eq!(fs::metadata(test_dir.socket()).unwrap().ino(), number);
}

#[test]
fn the_daemon_exits_with_an_error_when_its_sockets_directory_is_moved() {
    let test_dir = TestDir::new();
    let directory = test_dir.path("here");
    let socket = directory.join("discovery.sock");
    let daemon = DaemonBuilder::at_address(&test_dir, ipc_address(&socket)).start();
    fs::rename(&directory, test_dir.path("there")).unwrap();
    let output = daemon.wait();
    assert_error_message(&output, 1, &[socket.to_str().unwrap()]);
    assert!(!directory.exists());
}

#[test]
fn the_daemon_creates_the_sockets_directory() {
    let test_dir = TestDir::new();
    let socket = test_dir.path("not/there/yet/discovery.sock");
    let daemon = DaemonBuilder::at_address(&test_dir, ipc_address(&socket)).start();
    assert_eq!(register(daemon.address(), "/x"), DiscoveryStatus::Ok);
}

/// The address of a socket in `test_dir` whose path has exactly `length` bytes.
fn address_of_length(test_dir: &TestDir, length: usize) -> String {
    let used = test_dir.path("").as_os_str().len();
    let path = test_dir.path(&"s".repeat(length - used));
    assert_eq!(path.as_os_str().len(), length);
    ipc_address(&path)
}

#[test]
fn a_socket_path_has_at_most_107_bytes() {
    let test_dir = TestDir::new();
    let daemon = DaemonBuilder::at_address(&test_dir, address_of_length(&test_dir, 107)).start();
    assert_eq!(register(daemon.address(), "/x"), DiscoveryStatus::Ok);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code, Some(0));

    let too_long = DaemonBuilder::at_address(&test_dir, address_of_length(&test_dir, 108)).run();
    assert_startup_error(&too_long, &["107", "108"]);
}

#[test]
fn an_unusable_address_is_reported_in_one_sentence() {
    let test_dir = TestDir::new();
    let taken = Daemon::start_tcp();
    for address in ["/no/scheme", "udp://127.0.0.1:5", "tcp://127.0.0.1", "ipc://", "tcp://host:x"]
    {
        assert_startup_error(&DaemonBuilder::at_address(&test_dir, address).run(), &[address]);
    }
    let second = DaemonBuilder::at_address(&test_dir, taken.address()).run();
    assert!(matches!(second.code, Some(1 | 5)), "{:?}", second.code);
    assert!(second.stderr.contains(taken.address()), "{}", second.stderr);
    let impossible = ipc_address(Path::new("/proc/no/discovery.sock"));
    assert_startup_error(&DaemonBuilder::at_address(&test_dir, impossible).run(), &["/proc/no"]);
    taken.assert_serves();
}

#[test]
fn the_daemon_serves_ipc_and_tcp_from_one_registry() {
    let daemon = DaemonBuilder::at(&TestDir::new()).with_tcp().start();
    let [ipc, tcp] = daemon.addresses() else { panic!("two addresses") };
    assert_eq!(register(ipc, "/over/ipc"), DiscoveryStatus::Ok);
    assert_eq!(register(tcp, "/over/tcp"), DiscoveryStatus::Ok);
    for address in [ipc, tcp] {
        let list = ZmqPeer::req(address).request(&DiscoveryRequest::list());
        assert_eq!(topic_names(&list), ["/over/ipc", "/over/tcp"]);
    }
}

#[test]
fn the_daemon_serves_an_abstract_socket() {
    let test_dir = TestDir::new();
    // The directory's name is unique.
    let address = format!("ipc://@{}", test_dir.path("abstract").display());
    let daemon = DaemonBuilder::at_address(&test_dir, address).start();
    assert_eq!(register(daemon.address(), "/x"), DiscoveryStatus::Ok);
    assert_error_message(
        &DaemonBuilder::at_address(&test_dir, daemon.address()).run(),
        5,
        &[daemon.address()],
    );
    daemon.assert_serves();
}

#[test]
fn the_daemon_serves_ipv6() {
    if TcpListener::bind("[::1]:0").is_err() {
        report_skipped("this host has no IPv6");
        return;
    }
    let daemon = DaemonBuilder::at_address(&TestDir::new(), "tcp://[::1]:0").start();
    let peer = ZmqPeer::new(daemon.address(), zmq::REQ, |socket| socket.set_ipv6(true));
    assert_eq!(peer.request(&DiscoveryRequest::ping()).message, "pong");
}

#[test]
fn log_levels_are_those_of_the_reference_in_upper_or_lower_case() {
    for level in ["DEBUG", "INFO", "info", "Warning", "warn", "ERROR", "CRITICAL", "trace", "eRrOr"]
    {
        let daemon = DaemonBuilder::at(&TestDir::new()).log_level(Some(level)).start();
        assert_eq!(register(daemon.address(), "/x"), DiscoveryStatus::Ok);
        daemon.signal(Signal::TERM);
        let output = daemon.wait();
        assert_eq!(output.code, Some(0), "{level}: {}", output.stderr);
        let logs_changes = ["debug", "info", "trace"].contains(&level.to_lowercase().as_str());
        assert_eq!(output.stderr.contains("/x"), logs_changes, "{level}: {}", output.stderr);
    }
    let bad = DaemonBuilder::at(&TestDir::new()).log_level(Some("loud")).run();
    assert_error_message(&bad, 2, &["loud"]);
}

#[test]
fn the_json_log_has_one_info_line_for_each_change() {
    let daemon = DaemonBuilder::at(&TestDir::new()).args(["--log-format", "json"]).start();
    let peer = ZmqPeer::req(daemon.address());
    for request in [
        DiscoveryRequest::register(topic("/camera", "a")),
        DiscoveryRequest::register(topic("/camera", "b")),
        DiscoveryRequest::lookup("/camera"),
        DiscoveryRequest::list(),
        DiscoveryRequest::unregister("/camera"),
        DiscoveryRequest::unregister("/camera"),
    ] {
        let _ = peer.request(&request);
    }
    daemon.signal(Signal::TERM);
    let output = daemon.wait();
    let lines: Vec<Value> = output
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let changes: Vec<_> = lines
        .iter()
        .filter(|line| line["level"] == "INFO" && line.to_string().contains("/camera"))
        .collect();
    assert_eq!(changes.len(), 2, "{changes:#?}");
    let debug = |line: &&Value| line["level"] == "DEBUG" && line.to_string().contains("/camera");
    assert!(lines.iter().any(|line| debug(&line)), "the daemon logs lookups at DEBUG");
}

#[test]
fn a_name_that_two_nodes_want_is_a_warning_with_both() {
    let builder = DaemonBuilder::at(&TestDir::new()).log_level(None);
    let daemon = builder.args(["--log-format", "json"]).start();
    let peer = ZmqPeer::req(daemon.address());
    let register_as =
        |node| peer.request(&DiscoveryRequest::register(topic("/camera", node))).status;
    assert_eq!(register_as("first"), DiscoveryStatus::Ok);
    for _ in 0..300 {
        assert_eq!(register_as("second"), DiscoveryStatus::AlreadyExists);
    }
    daemon.signal(Signal::TERM);
    let log = daemon.wait().stderr;
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let warnings: Vec<_> = lines.filter(|line| line["level"] == "WARN").collect();
    let (uid, pid) = (rustix::process::getuid().as_raw(), std::process::id());
    for (key, value) in [
        ("topic", Value::from("/camera")),
        ("owner", "first".into()),
        ("node", "second".into()),
        ("owner_uid", uid.into()),
        ("owner_pid", pid.into()),
        ("uid", uid.into()),
        ("pid", pid.into()),
    ] {
        assert_eq!(warnings[0][key], value, "{}", warnings[0]);
    }
    // A node that tries again and again does not fill the log: 100 lines in 10 s.
    assert!((100..=200).contains(&warnings.len()), "{} warnings", warnings.len());
}

#[test]
fn a_name_that_is_not_found_is_a_debug_line_with_the_process() {
    for (level, is_logged) in [("debug", true), ("info", false)] {
        let daemon = DaemonBuilder::at(&TestDir::new()).log_level(Some(level)).start();
        let mut peer = daemon.raw_peer();
        for request in [DiscoveryRequest::lookup("/looked"), DiscoveryRequest::wait("/waited", 10)]
        {
            assert_eq!(peer.request(&request).unwrap().status, DiscoveryStatus::NotFound);
        }
        daemon.signal(Signal::TERM);
        let log = daemon.wait().stderr;
        let pid = format!(" pid={}", std::process::id());
        for topic in [r#"topic="/looked""#, r#"topic="/waited""#] {
            let is_miss = |line: &&str| {
                ["DEBUG", "not found", topic, &pid].iter().all(|word| line.contains(word))
            };
            assert_eq!(log.lines().filter(is_miss).count(), usize::from(is_logged), "{log}");
        }
    }
}

#[test]
fn the_json_log_names_the_port() {
    let builder = DaemonBuilder::at_address(&TestDir::new(), "tcp://127.0.0.1:0");
    builder.args(["--log-format", "json"]).start().assert_serves();
}

#[test]
fn the_daemon_runs_without_a_reader_of_its_log() {
    let test_dir = TestDir::new();
    let closed = DaemonBuilder::at(&test_dir).shell_prelude("exec 2>&-").start();
    for number in 0..100 {
        assert_eq!(register(closed.address(), &format!("/{number}")), DiscoveryStatus::Ok);
    }
    closed.signal(Signal::TERM);
    assert_eq!(closed.wait().code, Some(0));

    let (reader, writer) = io::pipe().unwrap();
    let builder = DaemonBuilder::at(&test_dir);
    let mut command = builder.command();
    let broken = Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer));
    drop(reader);
    eventually("the daemon answers", TIMEOUT, || raw_peer::ping(&test_dir.address()).ok());
    for number in 0..100 {
        assert_eq!(register(&test_dir.address(), &format!("/{number}")), DiscoveryStatus::Ok);
    }
    broken.signal(Signal::TERM);
    assert_eq!(broken.wait().code, Some(0));
}

#[test]
fn a_full_log_pipe_does_not_stop_the_daemon() {
    let (_reader, writer) = io::pipe().unwrap();
    let test_dir = TestDir::new();
    let mut command = DaemonBuilder::at(&test_dir).command();
    let daemon = Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer));
    eventually("the daemon answers", TIMEOUT, || raw_peer::ping(&test_dir.address()).ok());
    // Each request logs a line of at least 100 bytes, and the pipe holds 64 KiB.
    let peer = ZmqPeer::req(&test_dir.address());
    for number in 0..2_000 {
        let register = DiscoveryRequest::register(topic(&format!("/{number}"), "node"));
        assert_eq!(peer.request(&register).status, DiscoveryStatus::Ok);
    }
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code, Some(0));
    assert_cleaned_up(&test_dir);
}

#[test]
fn the_daemon_prints_its_version_and_help() {
    let test_dir = TestDir::new();
    let version = DaemonBuilder::at(&test_dir).args(["--version"]).run();
    assert_eq!(version.code, Some(0));
    assert_eq!(version.stdout.trim(), concat!("cortex-discovery ", env!("CARGO_PKG_VERSION")));

    let help = DaemonBuilder::at(&test_dir).args(["--help"]).run();
    assert_eq!(help.code, Some(0));
    for word in ["--address", "--log-level", "--log-format", "ipc://", "tcp://", "json", "exit"] {
        assert!(help.stdout.to_lowercase().contains(word), "`{word}` is not in the help");
    }
    assert_error_message(
        &DaemonBuilder::at(&test_dir).args(["--nonsense"]).run(),
        2,
        &["--nonsense"],
    );
    assert!(!test_dir.socket().exists());
}

#[test]
fn the_daemon_keeps_serving_after_each_recorded_malformed_request() {
    let daemon = Daemon::start();
    for exchange in transcript::exchanges().iter().filter(|exchange| !exchange.is_exact()) {
        let mut peer = RawPeer::open(daemon.address()).unwrap();
        exchange.check(&peer.request_bytes(&exchange.request).unwrap());
        peer.ping().unwrap();
    }
}
