//! Waits for topics, with our client and `cortex topic wait`: at our daemon, at the reference
//! daemon, and while one replaces the other.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cortex_client::{DiscoveryClient, Error, Result, TopicInfo};
use cortex_tests::cli::{command, run_at};
use cortex_tests::conformance::{client, expect_success, wait_until_parked};
use cortex_tests::daemon::{Daemon, DaemonBuilder};
use cortex_tests::deadline::TIMEOUT;
use cortex_tests::messages::{ParkedRequests, topic};
use cortex_tests::process::Process;
use cortex_tests::python::{self, ReferenceDaemon};
use cortex_tests::report_measurement;
use cortex_tests::test_dir::TestDir;
use rustix::process::Signal;
use serde_json::{Value, json};

/// The longest time until a waiting process exits. On an idle machine the requirement is a tenth.
const MAX_WAKE_LATENCY: Duration = Duration::from_millis(100);

fn register(address: &str, name: &str) {
    client(address).register_topic(&topic(name, "node")).unwrap();
}

fn unregister(address: &str, name: &str) {
    client(address).unregister_topic(name).unwrap();
}

/// Starts `cortex topic wait` with these arguments.
fn start_wait(address: &str, arguments: &[&str]) -> Process {
    let arguments = [&["-a", address, "--timeout", "30s", "topic", "wait"], arguments].concat();
    Process::spawn_captured(&mut command(&arguments))
}

/// Starts a thread whose client waits for `/x`. At a legacy daemon it polls every 20 ms.
fn spawn_waiting_client(address: &str) -> JoinHandle<Result<TopicInfo>> {
    let builder = DiscoveryClient::builder().address(address).timeout(TIMEOUT);
    let client = builder.poll_interval(Duration::from_millis(20)).build().unwrap();
    thread::spawn(move || client.wait_for_topic("/x", TIMEOUT))
}

fn parse_json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_waiting_command_ends_as_soon_as_a_python_node_registers() {
    let daemon = DaemonBuilder::at(&TestDir::new()).log_level(Some("info")).start();
    let wait = start_wait(daemon.address(), &["/x", "-o", "json"]);
    wait_until_parked(daemon.address(), ParkedRequests { waits: 1, watches: 0 });
    let node = ["register", "/x", "python_node", "then", "hold"];
    let node = python::spawn("node.py", &[&[daemon.address()], &node[..]].concat());
    node.stdout_line("the node has the reply to REGISTER", |line| {
        line.contains("Registered").then_some(())
    });
    let replied = Instant::now();
    let found = parse_json(&expect_success(wait.wait()));
    let took = replied.elapsed();
    report_measurement(&format!(
        "a waiting process exited {took:?} after the node printed its reply to REGISTER"
    ));
    assert_eq!((&found["name"], &found["publisher_node"]), (&json!("/x"), &json!("python_node")));
    assert!(took < MAX_WAKE_LATENCY, "{took:?}");
}

#[test]
fn waits_at_the_reference_daemon_poll() {
    let daemon = ReferenceDaemon::start(&TestDir::new());
    let address = daemon.address();
    let single_wait = start_wait(&address, &["/x", "-o", "name"]);
    let multiple_wait = start_wait(&address, &["/y", "/x", "-o", "name"]);
    let waiting_client = spawn_waiting_client(&address);
    register(&address, "/x");
    assert_eq!(waiting_client.join().unwrap(), Ok(topic("/x", "node")));
    assert_eq!(expect_success(single_wait.wait()), "/x\n");
    register(&address, "/y");
    assert_eq!(expect_success(multiple_wait.wait()), "/y\n/x\n");

    let gone = self::start_wait(&address, &["/x", "/y", "--gone"]);
    unregister(&address, "/x");
    unregister(&address, "/y");
    assert_eq!(expect_success(gone.wait()), "");
}

#[test]
fn a_wait_survives_a_killed_daemon() {
    let test_dir = TestDir::new();
    let builder = DaemonBuilder::at(&test_dir).log_level(Some("info"));
    let address = test_dir.address();
    let daemon = builder.start();
    let waiting_client = spawn_waiting_client(&address);
    let waits = [start_wait(&address, &["/x"]), start_wait(&address, &["/x", "/x"])];
    let multiple_wait = start_wait(&address, &["/x", "/y"]);
    wait_until_parked(&address, ParkedRequests { waits: 3, watches: 1 });
    let _ = daemon.kill();
    let daemon = builder.start();
    // The new daemon has parked all of them, so that no client waits for a pause to end.
    wait_until_parked(&address, ParkedRequests { waits: 3, watches: 1 });
    register(&address, "/y");
    let _ = daemon.kill();
    let daemon = builder.start();
    wait_until_parked(&address, ParkedRequests { waits: 3, watches: 1 });
    register(&address, "/x");
    assert_eq!(waiting_client.join().unwrap(), Ok(topic("/x", "node")));
    for process in waits.into_iter().chain([multiple_wait]) {
        assert!(expect_success(process.wait()).contains("/x"));
    }
    daemon.assert_serves();
}

#[test]
fn a_wait_continues_at_a_daemon_of_the_other_kind() {
    let test_dir = TestDir::new();
    let builder = DaemonBuilder::at(&test_dir).log_level(Some("info"));
    let address = test_dir.address();

    let ours = builder.start();
    let waiting_client = spawn_waiting_client(&address);
    wait_until_parked(&address, ParkedRequests { waits: 1, watches: 0 });
    let _ = ours.kill();
    let reference = ReferenceDaemon::start(&test_dir);
    register(&address, "/x");
    assert_eq!(waiting_client.join().unwrap(), Ok(topic("/x", "node")));

    unregister(&address, "/x");
    let waiting_client = spawn_waiting_client(&address);
    drop(reference);
    let _ours = builder.start();
    wait_until_parked(&address, ParkedRequests { waits: 1, watches: 0 });
    register(&address, "/x");
    assert_eq!(waiting_client.join().unwrap(), Ok(topic("/x", "node")));
}

#[test]
fn wait_prints_what_lookup_prints() {
    let daemon = Daemon::start();
    let address = daemon.address();
    register(address, "/x");
    register(address, "/a");
    for format in ["table", "name", "json", "jsonl"] {
        let lookup = expect_success(run_at(address, &["lookup", "/x", "-o", format]));
        assert_eq!(expect_success(run_at(address, &["topic", "wait", "/x", "-o", format])), lookup);
        assert_eq!(expect_success(run_at(address, &["wait", "/x", "/x", "-o", format])), lookup);
    }
    let both = |format| expect_success(run_at(address, &["wait", "/x", "/a", "-o", format]));
    let array = parse_json(&both("json"));
    assert_eq!((&array[0]["name"], &array[1]["name"]), (&json!("/x"), &json!("/a")));
    let lines: Vec<_> = both("jsonl").lines().map(parse_json).collect();
    assert_eq!(lines, *array.as_array().unwrap());
    assert_eq!(both("table").lines().count(), 3);

    for (format, shown) in [("table", ""), ("name", ""), ("json", "[]\n"), ("jsonl", "")] {
        assert_eq!(
            expect_success(run_at(address, &["wait", "/nope", "--gone", "-o", format])),
            shown
        );
    }
}

#[test]
fn a_command_can_wait_until_a_topic_is_gone() {
    let daemon = Daemon::start();
    let address = daemon.address();
    // A pattern would match other topics as well.
    for name in ["/x*", "/x?y"] {
        register(address, name);
        register(address, "/xyy");
        let gone = start_wait(address, &[name, "--gone"]);
        wait_until_parked(address, ParkedRequests { waits: 0, watches: 1 });
        unregister(address, "/xyy");
        unregister(address, name);
        assert_eq!(expect_success(gone.wait()), "");
    }
}

#[test]
fn a_wait_that_times_out_names_the_missing_topics() {
    let daemon = Daemon::start();
    register(daemon.address(), "/there");
    let reference = ReferenceDaemon::start(&TestDir::new());
    let long = "/".repeat(1024);
    for (arguments, sentence) in [
        (&["/nope"][..], "error: /nope did not appear within 300ms\n"),
        (&["/there", "/a", "/b"], "error: /a, /b did not appear within 300ms\n"),
        (&["/a", "/b", "/c", "/d", "/e"], "error: /a, /b, /c and 2 more did not appear"),
        (&["/there", "--gone"], "error: /there did not disappear within 300ms\n"),
        (&[&long], "error: ////"),
    ] {
        let arguments = [&["--timeout", "300ms", "topic", "wait"], arguments].concat();
        let began = Instant::now();
        let output = run_at(daemon.address(), &arguments);
        assert!(began.elapsed() >= Duration::from_millis(300));
        assert_eq!((output.code, &*output.stdout), (Some(124), ""), "{}", output.stderr);
        assert!(output.stderr.starts_with(sentence), "{}", output.stderr);
    }
    let output = run_at(&reference.address(), &["--timeout", "300ms", "wait", "/x", "-o", "json"]);
    let error = &parse_json(&output.stderr)["error"];
    assert_eq!((output.code, &error["kind"]), (Some(124), &json!("wait_timed_out")));
}

#[test]
fn a_missing_daemon_fails_at_once_and_a_silent_daemon_after_the_timeout() {
    let absent = run_at(&TestDir::new().address(), &["--timeout", "1h", "topic", "wait", "/x"]);
    assert_eq!(absent.code, Some(3), "{}", absent.stderr);

    let daemon = Daemon::start();
    daemon.signal(Signal::STOP);
    for arguments in [&["/x"][..], &["/x", "/y"], &["/x", "--gone"]] {
        let arguments = [&["--timeout", "300ms", "topic", "wait"], arguments].concat();
        let silent = run_at(daemon.address(), &arguments);
        assert_eq!(silent.code, Some(3), "{}", silent.stderr);
        assert!(silent.stderr.starts_with("error: no answer within 300ms"), "{}", silent.stderr);
    }
    let client = client(daemon.address());
    let waited = client.wait_for_topic("/x", Duration::from_millis(100));
    assert!(matches!(waited, Err(Error::NoAnswer { .. })), "{waited:?}");
    daemon.signal(Signal::CONT);
    client.ping().unwrap();

    for timeout in ["1ms", "1ns"] {
        let hasty = run_at(daemon.address(), &["--timeout", timeout, "wait", "/x"]);
        assert!(matches!(hasty.code, Some(3 | 124)), "{hasty:?}");
    }
}

#[test]
fn a_daemon_that_does_not_come_back_is_reported_after_the_timeout() {
    let daemon = Daemon::start();
    let address = daemon.address().to_owned();
    let wait = |names: &[&str]| {
        let arguments = [&["-a", &address, "--timeout", "2s", "wait"], names].concat();
        Process::spawn_captured(&mut command(&arguments))
    };
    let waits = [wait(&["/x"]), wait(&["/x", "/y"])];
    wait_until_parked(&address, ParkedRequests { waits: 1, watches: 1 });
    let _ = daemon.kill();
    for wait in waits {
        let output = wait.wait();
        assert_eq!(output.code, Some(3), "{}", output.stderr);
    }
}

#[test]
fn an_interrupted_wait_leaves_no_parked_request() {
    let daemon = Daemon::start();
    let wait = start_wait(daemon.address(), &["/x"]);
    wait_until_parked(daemon.address(), ParkedRequests { waits: 1, watches: 0 });
    wait.signal(Signal::INT);
    let output = wait.wait();
    assert!(output.code == Some(130) || output.signal == Some(2), "{output:?}");
    wait_until_parked(daemon.address(), ParkedRequests::NONE);
}
