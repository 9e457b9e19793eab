//! The life of a daemon among others: a successor, a rival, its signals, and the places of its
//! files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use cortex_proto::{DiscoveryRequest, DiscoveryStatus};
use cortex_tests::cli;
use cortex_tests::daemon::{Daemon, DaemonBuilder};
use cortex_tests::deadline::{QUIET_PERIOD, TIMEOUT, eventually};
use cortex_tests::messages::{decode_response, register_static, topic, topic_names};
use cortex_tests::process::Process;
use cortex_tests::raw_peer::{self, RawPeer};
use cortex_tests::test_dir::{TestDir, ipc_address};
use cortex_tests::{binaries, python, report_skipped};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, Rlimit, Signal, prlimit};

/// Registers static topics, which stay until a client removes them.
fn register_many(address: &str, count: usize) {
    let mut peer = RawPeer::open(address).unwrap();
    for number in 0..count {
        let request = register_static(topic(&format!("/many/{number}"), "node"));
        peer.send(&raw_peer::request_message(&request.to_bytes())).unwrap();
        if number % 100 == 99 {
            for _ in 0..100 {
                let reply = decode_response(&peer.read_reply().unwrap());
                assert_eq!(reply.status, DiscoveryStatus::Ok, "{}", reply.message);
            }
        }
    }
}

fn topic_count(address: &str) -> usize {
    let mut peer = RawPeer::open(address).unwrap();
    topic_names(&peer.request(&DiscoveryRequest::list()).unwrap()).len()
}

fn with_state_file(builder: DaemonBuilder, test_dir: &TestDir) -> DaemonBuilder {
    let builder = builder.args([Path::new("--state"), &test_dir.path("topics.db")]);
    builder.args(["--allow-remote-shutdown"]).log_level(Some("info"))
}

#[test]
fn a_successor_starts_as_soon_as_shutdown_has_waited() {
    const TOPICS: usize = 12_000;
    for is_tcp in [false, true] {
        let test_dir = TestDir::new();
        let first = if is_tcp { "tcp://127.0.0.1:0".to_owned() } else { test_dir.address() };
        let mut daemon =
            with_state_file(DaemonBuilder::at_address(&test_dir, first), &test_dir).start();
        let address = daemon.address().to_owned();
        register_many(&address, TOPICS);
        for _ in 0..5 {
            let output = cli::run_at(&address, &["shutdown", "--wait", "--timeout", "30s"]);
            assert_eq!(output.code, Some(0), "{}", output.stderr);
            let successor = DaemonBuilder::at_address(&test_dir, &*address);
            daemon = with_state_file(successor, &test_dir).start();
            assert_eq!(topic_count(&address), TOPICS);
        }
        drop(daemon);
    }
}

#[test]
fn the_socket_file_goes_after_the_state_file_is_closed() {
    let test_dir = TestDir::new();
    let daemon = with_state_file(DaemonBuilder::at(&test_dir), &test_dir).start();
    register_many(daemon.address(), 12_000);
    daemon.signal(Signal::TERM);
    let deadline = Instant::now() + TIMEOUT;
    // No pause: the state of the other files counts at the moment when the socket goes.
    while test_dir.socket().exists() {
        assert!(Instant::now() < deadline, "the socket stays");
    }
    let state = File::open(test_dir.path("topics.db")).unwrap();
    flock(&state, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(daemon.wait().code, Some(0));
    assert!(!test_dir.lock_file().exists());
}

#[test]
fn a_child_of_a_daemon_that_has_ended_does_not_count_as_a_running_daemon() {
    let test_dir = TestDir::new();
    let socket = test_dir.socket();
    let output = python::run("leftover_child.py", &[socket.to_str().unwrap()]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    // The child lives until a program connects, so no other one does before the daemon serves.
    let daemon = DaemonBuilder::at(&test_dir).log_level(Some("info")).spawn();
    daemon.stderr_line("the daemon serves", |line| line.contains("serving").then_some(()));
}

/// Locks a file as a daemon that is ending does.
fn locked(path: &Path) -> File {
    let file = File::options().create(true).append(true).open(path).unwrap();
    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    file
}

#[test]
fn a_starting_daemon_waits_for_one_that_is_ending() {
    for (leaves_socket, holds_state) in [(false, false), (true, false), (true, true)] {
        let test_dir = TestDir::new();
        if leaves_socket {
            drop(UnixListener::bind(test_dir.socket()).unwrap());
        }
        let lock = locked(&test_dir.lock_file());
        let state = holds_state.then(|| locked(&test_dir.path("topics.db")));
        let mut daemon = with_state_file(DaemonBuilder::at(&test_dir), &test_dir).spawn();
        thread::sleep(QUIET_PERIOD);
        daemon.assert_running();
        drop(lock);
        if state.is_some() {
            thread::sleep(QUIET_PERIOD);
            daemon.assert_running();
        }
        drop(state);
        eventually("the daemon serves", TIMEOUT, || raw_peer::ping(&test_dir.address()).ok());
    }
}

#[test]
fn a_daemon_that_waits_for_another_one_can_be_stopped() {
    for holds_state in [false, true] {
        let test_dir = TestDir::new();
        let held = if holds_state { test_dir.path("topics.db") } else { test_dir.lock_file() };
        let _lock = locked(&held);
        let mut daemon = with_state_file(DaemonBuilder::at(&test_dir), &test_dir).spawn();
        thread::sleep(QUIET_PERIOD);
        daemon.assert_running();
        daemon.signal(Signal::TERM);
        let output = daemon.wait();
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        assert!(output.stderr.contains("asked to stop"), "{}", output.stderr);
    }
}

#[test]
fn a_starting_daemon_waits_for_one_second_at_most() {
    let test_dir = TestDir::new();
    let lock = locked(&test_dir.lock_file());
    let output = with_state_file(DaemonBuilder::at(&test_dir), &test_dir).run();
    assert_eq!(output.code, Some(5), "{}", output.stderr);
    assert!(output.stderr.contains(test_dir.socket().to_str().unwrap()), "{}", output.stderr);
    drop(lock);

    let _state = locked(&test_dir.path("topics.db"));
    let output = with_state_file(DaemonBuilder::at(&test_dir), &test_dir).run();
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("another daemon uses the state file"), "{}", output.stderr);
    assert!(!test_dir.socket().exists() && !test_dir.lock_file().exists());
}

#[test]
fn a_second_daemon_fails_at_once_and_names_the_process_of_the_first() {
    let test_dir = TestDir::new();
    let abstract_address = format!("ipc://@{}", test_dir.path("abstract").display());
    for address in [test_dir.address(), abstract_address] {
        let daemon = DaemonBuilder::at_address(&test_dir, &*address).start();
        let pid = daemon.process().pid().as_raw_nonzero();
        let started = Instant::now();
        let output = DaemonBuilder::at_address(&test_dir, &*address).run();
        assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
        assert_eq!(output.code, Some(5), "{}", output.stderr);
        assert!(output.stderr.contains(&format!("(process {pid})")), "{}", output.stderr);
        daemon.assert_serves();
    }
}

#[test]
fn the_kernel_knows_the_socket_by_its_own_path() {
    let daemon = Daemon::start();
    let path = daemon.test_dir().socket();
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    let listens =
        |line: &str| line.ends_with(path.to_str().unwrap()) && line.contains(" 00010000 ");
    assert!(table.lines().any(listens), "{}", path.display());
    let names: Vec<_> = fs::read_dir(daemon.test_dir().path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("sock") || name.starts_with('.'))
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn inherited_ignored_signals_stay_ignored_except_sigterm() {
    let test_dir = TestDir::new();
    let daemon = DaemonBuilder::at(&test_dir).shell_prelude("trap '' INT HUP TERM").start();
    for signal in [Signal::INT, Signal::HUP, Signal::PIPE, Signal::XFSZ] {
        daemon.signal(signal);
        daemon.assert_serves();
    }
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code, Some(0));
    assert!(!test_dir.socket().exists());
}

#[test]
fn a_daemon_that_was_started_with_blocked_signals_can_be_stopped() {
    const BLOCK: &str = "import os, signal, sys; \
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)); \
        os.execv(sys.argv[1], sys.argv[1:])";
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let prelude = format!("exec python3 -c '{BLOCK}' \"$0\" \"$@\"");
        let daemon = DaemonBuilder::at(&TestDir::new()).shell_prelude(&prelude).start();
        daemon.signal(signal);
        assert_eq!(daemon.wait().code, Some(0), "{signal:?}");
    }
}

#[test]
fn at_the_limit_of_file_size_the_daemon_refuses_changes_and_serves() {
    let test_dir = TestDir::new();
    // 200 KiB in the shell's blocks of 512 bytes.
    let builder = with_state_file(DaemonBuilder::at(&test_dir), &test_dir);
    let daemon = builder.shell_prelude("ulimit -S -f 400").start();
    let mut peer = daemon.raw_peer();
    let mut register = |number: usize| {
        let request = register_static(topic(&format!("/{number}"), &"n".repeat(1000)));
        peer.request(&request).unwrap()
    };
    let refused = (0..1000).find(|number| register(*number).status == DiscoveryStatus::Error);
    let refused = refused.expect("the limit is reached");
    let refusal = register(refused);
    assert!(refusal.message.contains("not registered"), "{}", refusal.message);
    assert!(refusal.message.contains("state file"), "{}", refusal.message);
    assert_eq!(topic_count(daemon.address()), refused);

    let unlimited = Rlimit { current: None, maximum: None };
    prlimit(Some(daemon.process().pid()), Resource::Fsize, unlimited).unwrap();
    assert_eq!(register(refused).status, DiscoveryStatus::Ok);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code, Some(0));
}

#[test]
fn a_daemon_that_may_not_write_any_file_starts_and_saves_as_soon_as_it_may() {
    let test_dir = TestDir::new();
    let builder = with_state_file(DaemonBuilder::at(&test_dir), &test_dir);
    let daemon = builder.shell_prelude("ulimit -S -f 0").start();
    assert_eq!(register_static_topic(daemon.address()), DiscoveryStatus::Error);
    let unlimited = Rlimit { current: None, maximum: None };
    prlimit(Some(daemon.process().pid()), Resource::Fsize, unlimited).unwrap();
    eventually("the daemon saves", TIMEOUT, || {
        (register_static_topic(daemon.address()) == DiscoveryStatus::Ok).then_some(())
    });
    assert_eq!(daemon.kill().signal, Some(9));
    let daemon = with_state_file(DaemonBuilder::at(&test_dir), &test_dir).start();
    assert_eq!(topic_count(daemon.address()), 1);
}

/// A daemon that chooses its state file itself, with these variables alone.
fn with_environment(test_dir: &TestDir, variables: &[(&str, &Path)]) -> Process {
    let mut command = DaemonBuilder::at(test_dir).log_level(Some("info")).command();
    for name in ["HOME", "XDG_STATE_HOME", "STATE_DIRECTORY"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    let process = Process::spawn_captured(&mut command);
    eventually("the daemon serves", TIMEOUT, || raw_peer::ping(&test_dir.address()).ok());
    process
}

fn started_line(process: &Process) -> String {
    process.stderr_line("the line about the start", |line| {
        line.contains(" started ").then(|| line.to_owned())
    })
}

fn register_static_topic(address: &str) -> DiscoveryStatus {
    let mut peer = RawPeer::open(address).unwrap();
    peer.request(&register_static(topic("/static", "node"))).unwrap().status
}

#[test]
fn without_a_home_variable_the_state_file_is_in_the_users_home() {
    let test_dir = TestDir::new();
    // A daemon of this user must not leave a file in the real home directory.
    let in_own_home = "mount -t tmpfs none ~root && exec \"$0\" \"$@\"";
    let script = format!("exec unshare --mount sh -c '{in_own_home}' \"$0\" \"$@\"");
    let mount = ["--mount", "sh", "-c", "mount -t tmpfs none ~root"];
    let can_mount = Command::new("unshare").args(mount).output();
    if !can_mount.is_ok_and(|output| output.status.success()) {
        report_skipped("mounting needs root and `unshare --mount`");
        return;
    }
    let mut command = DaemonBuilder::at(&test_dir).shell_prelude(&script).command();
    command.env_remove("HOME").env_remove("XDG_STATE_HOME");
    let daemon = Process::spawn_captured(&mut command);
    let line = started_line(&daemon);
    assert!(line.contains("/.local/state/cortex/ipc-"), "{line}");
    assert!(!daemon.stderr_so_far().contains("WARN"), "{}", daemon.stderr_so_far());
}

#[test]
fn where_the_default_state_file_is_unusable_the_daemon_serves_from_memory() {
    let test_dir = TestDir::new();
    let file = test_dir.path("file");
    fs::write(&file, "").unwrap();
    let broken_link = test_dir.path("link");
    symlink(test_dir.path("nowhere"), &broken_link).unwrap();
    for directory in [Path::new("/proc/no"), &file, &broken_link] {
        let daemon = with_environment(&test_dir, &[("XDG_STATE_HOME", directory)]);
        let line =
            daemon.stderr_line("a warning", |line| line.contains("WARN").then(|| line.to_owned()));
        assert!(line.contains("memory") && line.contains("--state"), "{line}");
        assert!(started_line(&daemon).contains("in memory"));
        assert_eq!(register_static_topic(&test_dir.address()), DiscoveryStatus::Ok);
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait().code, Some(0));

        let explicit = directory.join("topics.db");
        let builder = DaemonBuilder::at(&test_dir).args([Path::new("--state"), &explicit]);
        let output = builder.run();
        assert_eq!(output.code, Some(1), "{}", output.stderr);
    }
}

#[test]
fn in_a_read_only_container_without_a_home_the_daemon_serves_from_memory() {
    const READ_ONLY: &str = "mount -o remount,bind,ro / && \
        exec setpriv --reuid 12345 --regid 12345 --clear-groups \"$0\" \"$@\"";
    let test_dir = TestDir::new();
    let sockets = test_dir.path("sockets");
    fs::create_dir(&sockets).unwrap();
    for path in [test_dir.path(""), sockets.clone()] {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    let program = test_dir.path("cortex-discovery");
    let copied = Command::new("cp").arg(binaries::daemon()).arg(&program).status().unwrap();
    assert!(copied.success());
    let socket = sockets.join("discovery.sock");
    let mut command = Command::new("unshare");
    let script = format!("mount --bind {0} {0} && {READ_ONLY}", sockets.display());
    command.args(["--mount", "sh", "-c", &script]).arg(&program);
    command.args(["--address", &ipc_address(&socket)]);
    for name in ["HOME", "XDG_STATE_HOME", "STATE_DIRECTORY"] {
        command.env_remove(name);
    }
    let mut daemon = Process::spawn_captured(&mut command);
    let outcome = eventually("the daemon serves or the mount fails", TIMEOUT, || {
        if daemon.has_exited() {
            Some(false)
        } else {
            raw_peer::ping(&ipc_address(&socket)).ok().map(|()| true)
        }
    });
    if !outcome && daemon.stderr_so_far().contains("mount") {
        report_skipped("mounting needs root and `unshare --mount`");
        return;
    }
    assert!(outcome, "{}", daemon.stderr_so_far());
    assert!(daemon.stderr_so_far().contains("WARN"), "{}", daemon.stderr_so_far());
    assert_eq!(register_static_topic(&ipc_address(&socket)), DiscoveryStatus::Ok);
}

#[test]
fn the_start_is_logged_with_version_process_addresses_state_file_and_topics() {
    let test_dir = TestDir::new();
    let builder = with_state_file(DaemonBuilder::at(&test_dir), &test_dir);
    let daemon = builder.start();
    assert_eq!(register_static_topic(daemon.address()), DiscoveryStatus::Ok);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code, Some(0));

    let daemon = builder.start();
    let line = started_line(daemon.process());
    let (pid, state) = (daemon.process().pid().as_raw_nonzero(), test_dir.path("topics.db"));
    for word in [
        format!("version=\"{}\"", env!("CARGO_PKG_VERSION")),
        format!("pid={pid}"),
        format!("state={}", state.display()),
        "restored=1 dropped=0".to_owned(),
    ] {
        assert!(line.contains(&word), "`{word}` is not in: {line}");
    }
    assert!(daemon.process().stderr_so_far().contains(&format!("address={}", daemon.address())));
}

#[test]
fn at_the_end_the_daemon_answers_the_requests_that_have_arrived() {
    const PIPELINED: usize = 400;
    for by_client in [false, true] {
        let daemon = Daemon::start();
        let mut peer = daemon.raw_peer();
        let ping = raw_peer::request_message(&DiscoveryRequest::ping().to_bytes());
        let wait = DiscoveryRequest::wait("/none", 20_000);
        let wait = raw_peer::request_message(&wait.to_bytes());
        if by_client {
            let shutdown = raw_peer::request_message(&DiscoveryRequest::shutdown().to_bytes());
            peer.send(&[ping.clone(), shutdown, ping.repeat(PIPELINED - 1), wait].concat())
                .unwrap();
        } else {
            peer.send(&[ping.repeat(PIPELINED), wait].concat()).unwrap();
        }
        let first = decode_response(&peer.read_reply().unwrap());
        assert_eq!(first.message, "pong");
        if by_client {
            let reply = decode_response(&peer.read_reply().unwrap());
            assert_eq!(reply.message, "Shutting down");
        } else {
            daemon.signal(Signal::TERM);
        }
        for number in 1..PIPELINED {
            let reply = peer.read_reply().unwrap_or_else(|error| panic!("{number}: {error}"));
            assert_eq!(decode_response(&reply).message, "pong");
        }
        let reply = decode_response(&peer.read_reply().unwrap());
        assert_eq!(reply.status, DiscoveryStatus::NotFound, "{}", reply.message);
        assert_eq!(daemon.wait().code, Some(0));
    }
}
