//! Watches, with our client and `cortex topic watch`: at our daemon, at the reference daemon, and
//! through restarts of both.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cortex_client::{DiscoveryClient, Error, EventKind, TopicInfo, Watch, WatchEvent};
use cortex_proto::{DiscoveryResponse, DiscoveryStatus, ResponseExt};
use cortex_tests::cli::{command, run_at};
use cortex_tests::conformance::{client, expect_success, wait_until_parked};
use cortex_tests::daemon::{Daemon, DaemonBuilder};
use cortex_tests::deadline::{TIMEOUT, eventually};
use cortex_tests::messages::{ParkedRequests, topic, topic_at};
use cortex_tests::process::Process;
use cortex_tests::python::{self, ReferenceDaemon};
use cortex_tests::scripted_daemon::ScriptedDaemon;
use cortex_tests::test_dir::TestDir;
use cortex_tests::{binaries, report_measurement};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A watch, the topics according to its events, and the events since the last look.
struct WatchFollower {
    watch: Watch,
    topics: Vec<TopicInfo>,
    events: Vec<String>,
    revision: Option<u64>,
}

impl WatchFollower {
    fn at(address: &str) -> Self {
        let builder = DiscoveryClient::builder().address(address).timeout(TIMEOUT);
        let client = builder.poll_interval(Duration::from_millis(20)).build().unwrap();
        let watch = client.watch(None).unwrap();
        Self { watch, topics: Vec::new(), events: Vec::new(), revision: None }
    }

    fn read_event(&mut self) {
        let event = self.watch.next_within(TIMEOUT).unwrap();
        match event.unwrap_or_else(|| panic!("no event after {:?}", self.events)) {
            WatchEvent::Snapshot { topics, revision, is_resync } => {
                self.events.push(if is_resync { "resync" } else { "snapshot" }.into());
                self.topics = topics;
                self.revision = revision;
            }
            WatchEvent::Changed(change) => {
                self.events.push(format!("{} {}", change.kind, change.info.name));
                let known = self.revision.map(|revision| revision + 1);
                assert_eq!(change.revision, known, "a gap or a repeated event: {:?}", self.events);
                self.revision = change.revision;
                let at = self.topics.iter().position(|topic| topic.name == change.info.name);
                match (change.kind, at) {
                    (EventKind::Registered, None) => self.topics.push(change.info),
                    (EventKind::Updated, Some(at)) => self.topics[at] = change.info,
                    (EventKind::Unregistered | EventKind::Evicted, Some(at)) => {
                        self.topics.remove(at);
                    }
                    (kind, at) => panic!("{kind} of the topic at {at:?}: {:?}", self.events),
                }
            }
            event => panic!("{event:?}"),
        }
    }

    /// Reads events until the topics are those that the daemon lists.
    fn catch_up(&mut self, client: &DiscoveryClient) {
        let listed = client.list_topics().unwrap();
        while self.topics != listed || self.events.is_empty() {
            self.read_event();
        }
    }

    /// Returns the events since the last call.
    fn take_events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }
}

/// Starts `cortex topic watch` with these arguments.
fn start_watch(address: &str, arguments: &[&str]) -> Process {
    let arguments = [&["-a", address, "topic", "watch"], arguments].concat();
    Process::spawn_captured(&mut command(&arguments))
}

fn register(client: &DiscoveryClient, name: &str) {
    client.register_topic(&topic(name, "node")).unwrap();
}

fn parse_json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// Waits for the printed event of this kind and topic.
fn wait_for_event(process: &Process, event: &str, name: &str) -> Value {
    process.stdout_line(&format!("{event} {name}"), |line| {
        let line = parse_json(line);
        (line["event"] == event && line["name"] == name).then_some(line)
    })
}

#[test]
fn a_watch_prints_every_kind_of_event_as_it_happens() {
    let daemon = DaemonBuilder::at(&TestDir::new()).log_level(Some("info")).start();
    let client = client(daemon.address());
    register(&client, "/there");
    let shell = start_watch(daemon.address(), &["-o", "jsonl"]);
    wait_for_event(&shell, "present", "/there");

    register(&client, "/a");
    let registered = wait_for_event(&shell, "registered", "/a");
    let expected = json!({
        "event": "registered",
        "revision": 2,
        "name": "/a",
        "address": "ipc:///run/nodes/a.sock",
        "message_type": "TestMessage",
        "fingerprint": "0x123456789abcdef0",
        "publisher_node": "node",
    });
    assert_eq!(registered, expected);

    client.register_topic(&topic_at("/a", "node", "ipc:///elsewhere")).unwrap();
    assert_eq!(wait_for_event(&shell, "updated", "/a")["address"], "ipc:///elsewhere");
    client.unregister_topic("/a").unwrap();
    assert_eq!(wait_for_event(&shell, "unregistered", "/a")["reason"], "unregistered");

    let node = ["register", "/dying", "python_node", "then", "hold"];
    let node = python::spawn("node.py", &[&[daemon.address()], &node[..]].concat());
    wait_for_event(&shell, "registered", "/dying");
    node.signal(Signal::KILL);
    let killed = Instant::now();
    let evicted = wait_for_event(&shell, "evicted", "/dying");
    report_measurement(&format!("the eviction was printed {:?} after the kill", killed.elapsed()));
    assert_eq!((&evicted["reason"], &evicted["revision"]), (&json!("owner exited"), &json!(6)));

    shell.signal(Signal::INT);
    let output = shell.wait();
    assert!(output.code == Some(130) || output.signal == Some(2), "{output:?}");
    let lines: Vec<_> = output.stdout.lines().map(parse_json).collect();
    let revisions: Vec<_> = lines.iter().map(|line| line["revision"].as_u64().unwrap()).collect();
    assert_eq!(revisions, [1, 2, 3, 4, 5, 6]);
    assert_eq!(output.stderr, "");
}

#[test]
fn a_watch_misses_and_repeats_nothing_when_the_daemon_is_killed() {
    let test_dir = TestDir::new();
    let builder = DaemonBuilder::at(&test_dir).log_level(Some("info"));
    let address = test_dir.address();
    let mut daemon = builder.start();
    let client = client(&address);
    let mut follower = WatchFollower::at(&address);
    follower.catch_up(&client);
    let shell = start_watch(&address, &["-o", "jsonl"]);
    wait_until_parked(&address, ParkedRequests { waits: 0, watches: 2 });
    let mut seen = 0;
    for round in 0..5 {
        for number in 0..20 {
            register(&client, &format!("/{round}/{number}"));
        }
        // The follower reads some events before the kill, and the rest from the next daemon.
        for _ in 0..round * 5 {
            follower.read_event();
        }
        let _ = daemon.kill();
        daemon = builder.start();
        client.unregister_topic(&format!("/{round}/7")).unwrap();
        follower.catch_up(&client);
        seen += 21;
    }
    assert_eq!(follower.take_events().len(), 1 + seen);
    assert_eq!(follower.revision, Some(u64::try_from(seen).unwrap()));
    assert_eq!(follower.watch.trouble(), None);

    wait_for_event(&shell, "unregistered", "/4/7");
    let shown = shell.stdout_so_far();
    let revisions = shown.lines().map(|line| parse_json(line)["revision"].as_u64().unwrap());
    assert_eq!(revisions.collect::<Vec<_>>(), (1..=105).collect::<Vec<_>>());
    daemon.assert_serves();
}

/// Daemons of both kinds in turn, each killed under load.
#[test]
fn a_watch_follows_daemons_of_both_kinds_that_are_killed_under_load() {
    const KILLS: usize = 17;
    let test_dir = TestDir::new();
    let address = test_dir.address();
    let builder = DaemonBuilder::at(&test_dir).log_level(Some("info"));
    let client = client(&address);
    let mut follower = WatchFollower::at(&address);
    let done = AtomicBool::new(false);
    let mut last = None;
    thread::scope(|scope| {
        for number in 0..4 {
            let (client, done) = (client.clone(), &done);
            scope.spawn(move || {
                let name = format!("/load/{number}");
                while !done.load(Ordering::Relaxed) {
                    client.register_topic(&topic(&name, "node")).unwrap();
                    client.lookup_topic("/absent").unwrap_err();
                    // A daemon without its state does not know the topic.
                    let _ = client.unregister_topic(&name);
                }
            });
        }
        for kill in 0..KILLS {
            let name = format!("/kill/{kill}");
            // Each event of our daemon follows the one before it; `read_event` checks that.
            let mut read_until_registered = || {
                while !follower.topics.iter().any(|info| info.name.as_str() == name) {
                    follower.read_event();
                }
            };
            if kill % 3 == 2 {
                let daemon = ReferenceDaemon::start(&test_dir);
                register(&client, &name);
                read_until_registered();
                drop(daemon);
            } else {
                let daemon = builder.start();
                register(&client, &name);
                read_until_registered();
                let _ = daemon.kill();
            }
        }
        // The calls under way end with this one.
        last = Some(builder.start());
        done.store(true, Ordering::Relaxed);
    });
    follower.catch_up(&client);
    drop(last);
}

#[test]
fn a_watch_resyncs_when_the_daemon_has_lost_its_state() {
    let test_dir = TestDir::new();
    let builder = DaemonBuilder::at(&test_dir).log_level(Some("info"));
    let address = test_dir.address();
    let daemon = builder.start();
    let client = client(&address);
    register(&client, "/old");
    let mut follower = WatchFollower::at(&address);
    follower.catch_up(&client);
    assert_eq!(follower.take_events(), ["snapshot"]);
    let shell = start_watch(&address, &["-o", "name"]);
    shell.stdout_line("the topics at the start", |line| (line == "present /old").then_some(()));

    let _ = daemon.kill();
    fs::remove_dir_all(test_dir.path("state")).unwrap();
    let _daemon = builder.start();
    register(&client, "/new");
    follower.catch_up(&client);
    let events = follower.take_events();
    assert_eq!(events[0], "resync");
    shell.stdout_line("the new topic", |line| line.ends_with("/new").then_some(()));
    let shown = shell.stdout_so_far();
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines[..2], ["present /old", "resync"]);
    assert!(["present /new", "registered /new"].contains(&lines[2]), "{shown}");
}

#[test]
fn a_watch_at_the_reference_daemon_compares_lists() {
    let test_dir = TestDir::new();
    let address = test_dir.address();
    let reference = ReferenceDaemon::start(&test_dir);
    let client = client(&address);
    register(&client, "/a");
    register(&client, "/b");
    let mut follower = WatchFollower::at(&address);
    follower.catch_up(&client);
    assert_eq!((follower.take_events(), follower.revision), (vec!["snapshot".to_owned()], None));
    let shell = start_watch(&address, &["/[b-z]", "-o", "jsonl"]);
    wait_for_event(&shell, "present", "/b");

    client.register_topic(&topic_at("/b", "node", "ipc:///elsewhere")).unwrap();
    follower.catch_up(&client);
    assert_eq!(follower.take_events(), ["updated /b"]);
    register(&client, "/c");
    client.unregister_topic("/a").unwrap();
    follower.catch_up(&client);
    let mut events = follower.take_events();
    events.sort();
    assert_eq!(events, ["registered /c", "unregistered /a"]);
    let registered = wait_for_event(&shell, "registered", "/c");
    assert_eq!((&registered["revision"], &registered["reason"]), (&Value::Null, &Value::Null));

    // The reference daemon restarts empty: the list is shorter.
    drop(reference);
    let reference = ReferenceDaemon::start(&test_dir);
    follower.catch_up(&client);
    assert_eq!(follower.take_events(), ["unregistered /b", "unregistered /c"]);
    register(&client, "/d");
    wait_for_event(&shell, "registered", "/d");
    follower.catch_up(&client);
    assert_eq!(follower.take_events(), ["registered /d"]);

    // Our daemon replaces the reference daemon, which then replaces ours.
    drop(reference);
    let ours = DaemonBuilder::at(&test_dir).log_level(Some("info")).start();
    register(&client, "/e");
    follower.catch_up(&client);
    assert_eq!(follower.take_events()[0], "resync");
    assert_eq!(follower.revision, Some(1));
    shell.stdout_line("resync", |line| (parse_json(line)["event"] == "resync").then_some(()));
    let _ = ours.kill();
    let _reference = ReferenceDaemon::start(&test_dir);
    register(&client, "/f");
    follower.catch_up(&client);
    assert_eq!(follower.take_events()[0], "resync");
    assert_eq!(follower.revision, None);
}

#[test]
fn patterns_match_the_same_topics_at_every_daemon() {
    let ours = Daemon::start();
    let reference = ReferenceDaemon::start(&TestDir::new());
    for address in [ours.address(), &reference.address()] {
        let client = client(address);
        for name in ["/camera/left", "/camera/left/small", "/größe", "/a*b", "/a\\b", "/a{b"] {
            register(&client, name);
        }
        for (pattern, names) in [
            ("/camera/*", &["/camera/left"][..]),
            ("/camera/**", &["/camera/left", "/camera/left/small"]),
            ("/gr?ße", &["/größe"]),
            ("/a\\*b", &["/a*b"]),
            ("/a\\\\b", &["/a\\b"]),
            ("/a\\{b", &["/a{b"]),
            ("/nothing", &[]),
        ] {
            let mut watch = client.watch(Some(pattern)).unwrap();
            let first = watch.next_within(TIMEOUT).unwrap();
            let Some(WatchEvent::Snapshot { topics, is_resync: false, .. }) = first else {
                panic!("{pattern}: {first:?}");
            };
            let found: Vec<_> = topics.iter().map(|topic| topic.name.as_str()).collect();
            assert_eq!(found, names, "{pattern} at {address}");
        }
        assert!(matches!(client.watch(Some("/a[")), Err(Error::InvalidFilter { .. })));
    }
}

#[test]
fn a_watch_continues_after_the_daemon_was_stopped() {
    let daemon = Daemon::start();
    let client = client(daemon.address());
    let mut follower = WatchFollower::at(daemon.address());
    follower.catch_up(&client);
    daemon.signal(Signal::STOP);
    assert_eq!(follower.watch.next_within(Duration::from_millis(50)), Ok(None));
    daemon.signal(Signal::CONT);
    register(&client, "/a");
    follower.catch_up(&client);
    assert_eq!(follower.take_events(), ["snapshot", "registered /a"]);
}

#[test]
fn a_watch_with_a_timeout_ends() {
    let daemon = Daemon::start();
    register(&client(daemon.address()), "/a");
    let shown = expect_success(run_at(daemon.address(), &["topic", "watch", "--timeout", "300ms"]));
    let rows: Vec<Vec<_>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["EVENT", "TOPIC", "TYPE", "NODE", "ADDRESS", "REASON"]);
    assert_eq!(rows[1], ["present", "/a", "TestMessage", "node", "ipc:///run/nodes/a.sock", "-"]);
    assert_eq!(rows.len(), 2);
    let arguments = ["watch", "--no-headers", "-o", "table", "--timeout", "300ms"];
    assert_eq!(expect_success(run_at(daemon.address(), &arguments)).lines().count(), 1);
}

#[test]
fn a_watch_that_cannot_start_is_an_error() {
    let daemon = Daemon::start();
    for (address, arguments, exit) in [
        (TestDir::new().address(), &["watch", "--timeout", "1h"][..], 3),
        (daemon.address().to_owned(), &["watch", "/a["], 2),
        (daemon.address().to_owned(), &["watch", "-o", "json"], 2),
        (daemon_that_replies("nonsense").address(), &["watch"], 6),
        (daemon_that_replies(refusal()).address(), &["watch"], 1),
    ] {
        let output = run_at(&address, arguments);
        assert_eq!((output.code, &*output.stdout), (Some(exit), ""), "{}", output.stderr);
    }
    let refusing = daemon_that_replies(refusal());
    let output = run_at(&refusing.address(), &["watch"]);
    assert!(output.stderr.contains("not today"), "{}", output.stderr);

    daemon.signal(Signal::STOP);
    let output = run_at(daemon.address(), &["watch", "--timeout", "300ms"]);
    assert_eq!(output.code, Some(3), "no reply arrived: {}", output.stderr);
    // The message does not say that the command waits on, since it exits.
    assert!(output.stderr.starts_with("error: no answer within 300ms"), "{}", output.stderr);
}

fn refusal() -> Vec<u8> {
    let ext = Some(ResponseExt::default());
    DiscoveryResponse { ext, ..DiscoveryResponse::new(DiscoveryStatus::Error, "not today") }
        .to_bytes()
}

/// A daemon that sends the same reply to every request.
fn daemon_that_replies(body: impl Into<Vec<u8>>) -> ScriptedDaemon {
    let body = body.into();
    ScriptedDaemon::start(move |request| vec![request.reply(body.clone())])
}

#[test]
fn a_watch_reports_on_stderr_that_the_daemon_is_gone_and_back() {
    let test_dir = TestDir::new();
    let daemon = DaemonBuilder::at(&test_dir).start();
    let shell = start_watch(&test_dir.address(), &["-o", "name"]);
    let quiet = start_watch(&test_dir.address(), &["-o", "name", "-q"]);
    wait_until_parked(&test_dir.address(), ParkedRequests { waits: 0, watches: 2 });
    let _ = daemon.kill();
    shell.stderr_line("the daemon is gone", |line| line.contains("is gone").then_some(()));
    let _daemon = DaemonBuilder::at(&test_dir).start();
    shell.stderr_line("the daemon is back", |line| line.contains("answers again").then_some(()));
    register(&client(&test_dir.address()), "/a");
    for process in [&shell, &quiet] {
        process.stdout_line("the topic", |line| (line == "registered /a").then_some(()));
    }
    assert_eq!(quiet.stderr_so_far(), "");
}

#[test]
fn a_reader_that_closes_the_pipe_ends_the_watch() {
    let daemon = Daemon::start();
    register(&client(daemon.address()), "/a");
    for another_event in [true, false] {
        let (reader, writer) = io::pipe().unwrap();
        let mut command = command(&["-a", daemon.address(), "watch", "-o", "name"]);
        command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
        let process = Process::spawn(&mut command);
        drop(command);
        let first = BufReader::new(reader).lines().next().unwrap().unwrap();
        assert_eq!(first, "present /a");
        if another_event {
            register(&client(daemon.address()), "/b");
        }
        let output = process.wait();
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
        client(daemon.address()).unregister_topic("/b").unwrap_or_default();
    }
}

#[test]
fn the_watch_example_prints_changes() {
    let test_dir = TestDir::new();
    let builder = DaemonBuilder::at(&test_dir);
    let daemon = builder.start();
    let client = client(daemon.address());
    register(&client, "/camera/left");
    let mut example = Command::new(binaries::client_example("watch"));
    let example = Process::spawn_captured(example.arg(daemon.address()));
    let shown = |wanted: &str| example.stdout_line(wanted, |line| (line == wanted).then_some(()));
    shown("there are 1 topics");
    let _ = daemon.kill();
    let _daemon = builder.start();
    register(&client, "/camera/right");
    shown("/camera/right: registered");
    client.unregister_topic("/camera/left").unwrap();
    shown("/camera/left: unregistered");
}

#[test]
fn a_snapshot_can_have_a_hundred_thousand_topics() {
    let topics: Vec<_> = (0..100_000).map(|number| topic(&format!("/{number}"), "node")).collect();
    let ext = ResponseExt {
        epoch: Some(1),
        revision: Some(100_000),
        snapshot: Some(true),
        ..ResponseExt::default()
    };
    let response = DiscoveryResponse {
        topics,
        ext: Some(ext),
        ..DiscoveryResponse::new(DiscoveryStatus::Ok, "")
    };
    let body = response.to_bytes();
    let mut is_first = true;
    let daemon = ScriptedDaemon::start(move |request| {
        let is_first = std::mem::take(&mut is_first);
        if is_first { vec![request.reply(body.clone())] } else { Vec::new() }
    });
    let began = Instant::now();
    let mut watch = client(&daemon.address()).watch(None).unwrap();
    let snapshot = watch.next_within(TIMEOUT).unwrap();
    let Some(WatchEvent::Snapshot { topics, revision, .. }) = snapshot else {
        panic!("{snapshot:?}");
    };
    assert_eq!((topics.len(), revision), (100_000, Some(100_000)));
    report_measurement(&format!("a snapshot of 100,000 topics took {:?}", began.elapsed()));
}

#[test]
fn a_watch_that_is_polled_more_rarely_than_its_timeout_still_gets_events() {
    let daemon = Daemon::start();
    let timeout = Duration::from_millis(200);
    let builder = DiscoveryClient::builder().address(daemon.address()).timeout(timeout);
    let mut watch = builder.build().unwrap().watch(None).unwrap();
    assert_eq!(
        watch.next_within(Duration::ZERO),
        Ok(None),
        "the first poll only sends the request"
    );
    let first_poll = Instant::now();
    eventually("the timeout has passed", TIMEOUT, || {
        (first_poll.elapsed() > 2 * timeout).then_some(())
    });
    let snapshot = watch.next_within(Duration::ZERO).unwrap();
    assert!(matches!(snapshot, Some(WatchEvent::Snapshot { .. })), "{snapshot:?}");
    assert_eq!(watch.trouble(), None);
}
