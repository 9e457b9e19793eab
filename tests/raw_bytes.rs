//! Raw bytes on a connection: split anywhere, invalid, too many, too slow, or never read.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use cortex_proto::{DiscoveryRequest, DiscoveryStatus, TopicInfo};
use cortex_tests::daemon::{Daemon, DaemonBuilder};
use cortex_tests::deadline::{QUIET_PERIOD, TIMEOUT, eventually};
use cortex_tests::messages::{decode_response, ping_of_size, topic};
use cortex_tests::raw_peer::{self, COMMAND, GREETING_LENGTH, MORE, RawPeer, Traffic};
use cortex_tests::report_measurement;
use cortex_tests::test_dir::TestDir;
use cortex_tests::transcript::status;
use rustix::process::Signal;

fn ping() -> Vec<u8> {
    DiscoveryRequest::ping().to_bytes()
}

fn lookup(name: &str) -> Vec<u8> {
    DiscoveryRequest::lookup(name).to_bytes()
}

/// One of each valid handshake, message and command, in one buffer.
fn conversation() -> Vec<u8> {
    let envelope = raw_peer::message(&[b"one", b"", &ping()]);
    [
        raw_peer::greeting(),
        raw_peer::ready("DEALER", &[("Identity", b"somebody"), ("X-Other", b"")]),
        raw_peer::request_message(&ping()),
        raw_peer::command("PING", b"\x00\x05context"),
        raw_peer::long_frame(MORE, b""),
        raw_peer::long_frame(0, &lookup("/nope")),
        envelope,
        raw_peer::request_message(&lookup(&"n".repeat(300))),
    ]
    .concat()
}

/// The daemon's messages and commands, each in order.
type Replies = (Vec<Vec<Vec<u8>>>, Vec<(String, Vec<u8>)>);

fn read_replies(peer: &mut RawPeer) -> Replies {
    let (mut messages, mut commands) = (Vec::new(), Vec::new());
    peer.read_greeting().unwrap();
    while messages.len() < 4 || commands.len() < 2 {
        match peer.read_traffic().unwrap() {
            Traffic::Message(frames) => messages.push(frames),
            Traffic::Command(name, data) => commands.push((name, data)),
        }
    }
    (messages, commands)
}

/// Waits until the daemon has read all bytes that were sent before.
fn wait_until_read(other: &mut RawPeer) {
    // The first PING may end in the round in which the other bytes become readable. The second
    // can only end after that round.
    other.ping().unwrap();
    other.ping().unwrap();
}

#[test]
fn the_daemon_sends_its_greeting_first() {
    let daemon = Daemon::start();
    let mut peer = RawPeer::connect(daemon.address()).unwrap();
    let greeting = peer.read_greeting().unwrap();
    assert_eq!(greeting[..10], [0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f]);
    assert_eq!(greeting[10], 3, "the major version");
    assert_eq!(greeting[12..32], raw_peer::greeting()[12..32], "the mechanism");
}

#[test]
fn requests_have_the_same_replies_wherever_the_bytes_are_split() {
    let daemon = Daemon::start();
    let conversation = conversation();
    let mut whole = RawPeer::connect(daemon.address()).unwrap();
    whole.send(&conversation).unwrap();
    let expected = read_replies(&mut whole);
    let (messages, commands) = &expected;
    assert_eq!(messages[2][0], b"one", "the reply repeats the frames before the delimiter");
    assert_eq!(commands[1], ("PONG".into(), b"context".to_vec()));
    let found: Vec<_> = messages.iter().map(|frames| status(frames.last().unwrap())).collect();
    let (ok, not_found) = (DiscoveryStatus::Ok, DiscoveryStatus::NotFound);
    assert_eq!(found, [ok, not_found, ok, not_found]);

    let mut other = RawPeer::open(daemon.address()).unwrap();
    for cut in 1..conversation.len() {
        let mut peer = RawPeer::connect(daemon.address()).unwrap();
        peer.send(&conversation[..cut]).unwrap();
        wait_until_read(&mut other);
        peer.send(&conversation[cut..]).unwrap();
        assert_eq!(read_replies(&mut peer), expected, "cut at byte {cut}");
    }
}

#[test]
fn requests_may_arrive_byte_by_byte() {
    let daemon = Daemon::start();
    let mut whole = RawPeer::connect(daemon.address()).unwrap();
    whole.send(&conversation()).unwrap();
    let expected = read_replies(&mut whole);

    let mut other = RawPeer::open(daemon.address()).unwrap();
    let mut peer = RawPeer::connect(daemon.address()).unwrap();
    for byte in conversation() {
        peer.send(&[byte]).unwrap();
        wait_until_read(&mut other);
    }
    assert_eq!(read_replies(&mut peer), expected);
}

#[test]
fn requests_sent_in_one_write_are_answered_in_order() {
    let daemon = Daemon::start();
    let mut peer = RawPeer::open(daemon.address()).unwrap();
    let requests: Vec<_> =
        (0..300).map(|n| raw_peer::request_message(&lookup(&format!("/{n}")))).collect();
    peer.send(&requests.concat()).unwrap();
    for n in 0..300 {
        let reply = decode_response(&peer.read_reply().unwrap());
        assert_eq!(reply.message, format!("Topic /{n} not found"));
    }
}

#[test]
fn peers_with_another_mechanism_or_version_are_logged_and_closed() {
    for (greeting, in_log) in [
        (raw_peer::greeting_of((3, 1), b"CURVE"), "CURVE"),
        (raw_peer::greeting_of((3, 0), b"PLAIN"), "PLAIN"),
        (raw_peer::greeting_of((2, 0), b""), "ZMTP 2"),
        (raw_peer::greeting_of((1, 0), b""), "ZMTP 1"),
        (b"\x01\x00\x01\x00".to_vec(), "ZMTP"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "ZMTP"),
    ] {
        // A new daemon for each case, since the daemon limits such log lines.
        let daemon = Daemon::start();
        let mut peer = RawPeer::connect(daemon.address()).unwrap();
        peer.send(&greeting).unwrap();
        let received = peer.read_to_close().unwrap();
        assert!(received.len() <= GREETING_LENGTH, "{in_log}: more than a greeting");
        daemon.process().stderr_line(in_log, |line| line.contains(in_log).then_some(()));
        daemon.assert_serves();
    }
}

#[test]
fn a_peer_of_version_3_0_is_served() {
    let daemon = Daemon::start();
    let mut peer = RawPeer::connect(daemon.address()).unwrap();
    peer.send(&raw_peer::greeting_of((3, 0), b"NULL")).unwrap();
    peer.send(&raw_peer::ready("REQ", &[])).unwrap();
    peer.read_handshake().unwrap();
    peer.ping().unwrap();
}

#[test]
fn a_socket_type_that_cannot_send_requests_gets_an_error_and_is_closed() {
    let daemon = Daemon::start();
    for socket_type in ["SUB", "PUB", "REP", "ROUTER", "PUSH", "PAIR", "", "NONSENSE"] {
        let mut peer = RawPeer::connect(daemon.address()).unwrap();
        peer.send(&raw_peer::greeting()).unwrap();
        peer.send(&raw_peer::ready(socket_type, &[])).unwrap();
        peer.read_greeting().unwrap();
        let reason = loop {
            let Traffic::Command(name, data) = peer.read_traffic().unwrap() else {
                panic!("the daemon sent a message to a {socket_type}");
            };
            if name == "ERROR" {
                break data;
            }
            assert_eq!(name, "READY");
        };
        assert_eq!(usize::from(reason[0]), reason.len() - 1, "the reason starts with its length");
        assert_eq!(peer.read_to_close().unwrap(), b"", "{socket_type}");
    }
    daemon.assert_serves();
}

#[test]
fn a_peer_cannot_forge_a_line_of_the_log() {
    const FORGED: &str = "X\n2026-01-01T00:00:00Z ERROR fake\r\u{1b}[2J\u{9b}2J\u{7f}\u{85}\\\"\0";
    let shake_hands = || [raw_peer::greeting(), raw_peer::ready("REQ", &[])].concat();
    let request = |request: DiscoveryRequest| raw_peer::request_message(&request.to_bytes());
    let info = |node: &str| TopicInfo {
        address: FORGED.into(),
        message_type: FORGED.into(),
        ..topic(FORGED, &format!("{node}{FORGED}"))
    };
    let too_long = TopicInfo { publisher_node: FORGED.repeat(50), ..topic(FORGED, "") };
    let cases = [
        [
            shake_hands(),
            request(DiscoveryRequest::register(info("first"))),
            request(DiscoveryRequest::register(info("second"))),
            request(DiscoveryRequest::register(too_long)),
            request(DiscoveryRequest::lookup(FORGED)),
            request(DiscoveryRequest::lookup(format!("missing{FORGED}"))),
            request(DiscoveryRequest::wait(format!("missing{FORGED}"), 0)),
            request(DiscoveryRequest::unregister(FORGED)),
        ]
        .concat(),
        [shake_hands(), raw_peer::command("ERROR", &[b"\x33", FORGED.as_bytes()].concat())]
            .concat(),
        [raw_peer::greeting(), raw_peer::ready(FORGED, &[])].concat(),
        raw_peer::greeting_of((3, 1), b"X\nERROR fake\x1b"),
    ];
    for (bytes, format) in cases.iter().flat_map(|bytes| [(bytes, "text"), (bytes, "json")]) {
        // A new daemon for each case, since the daemon limits such log lines.
        let arguments = ["--log-format", format, "--log-level", "trace"];
        let builder = DaemonBuilder::at(&TestDir::new()).log_level(None).args(arguments);
        let daemon = builder.start();
        let mut peer = RawPeer::connect(daemon.address()).unwrap();
        peer.send(bytes).unwrap();
        wait_until_read(&mut RawPeer::open(daemon.address()).unwrap());
        daemon.signal(Signal::TERM);
        let log = daemon.wait().stderr;
        assert!(log.contains("fake"), "the log contains what the peer sent:\n{log}");
        let is_own = |line: &&str| {
            let is_json = serde_json::from_str::<serde_json::Value>(line).is_ok();
            let levels = ["TRACE", "DEBUG", "INFO", "WARN"];
            let level = line.split_whitespace().nth(1).unwrap_or_default();
            let is_text = levels.contains(&level) && line.starts_with("20");
            let has_forged_start = line.starts_with("2026-01-01");
            let is_line = if format == "json" { is_json } else { is_text && !has_forged_start };
            is_line && !line.contains(char::is_control)
        };
        let wrong: Vec<_> = log.lines().filter(|line| !is_own(line)).collect();
        assert_eq!(wrong, [""; 0], "each line must be one of the daemon's own:\n{log}");
    }
}

#[test]
fn a_connection_with_an_invalid_handshake_is_closed() {
    let daemon = Daemon::start();
    for (what, bytes) in [
        ("a request before READY", raw_peer::request_message(&ping())),
        ("a command before READY", raw_peer::command("HELLO", b"")),
        (
            "a READY cut short inside",
            raw_peer::command("READY", b"\x0bSocket-Type\x00\x00\x00\x09REQ"),
        ),
        ("a READY without a socket type", raw_peer::command("READY", b"")),
        ("an ERROR", raw_peer::command("ERROR", b"\x02no")),
    ] {
        let mut peer = RawPeer::connect(daemon.address()).unwrap();
        peer.send(&[raw_peer::greeting(), bytes].concat()).unwrap();
        assert!(peer.read_to_close().is_ok(), "{what}");
    }
    daemon.assert_serves();
}

#[test]
fn claimed_identities_are_ignored() {
    let daemon = Daemon::start();
    // The last one is the identity that libzmq's ROUTER gives to its first anonymous peer.
    let long = [b'i'; 255];
    for identity in [&b"same"[..], b"same", b"", &long, b"\0\0\0\0\x01"] {
        let mut peer = RawPeer::connect(daemon.address()).unwrap();
        peer.send(&raw_peer::greeting()).unwrap();
        peer.send(&raw_peer::ready("REQ", &[("Identity", identity)])).unwrap();
        peer.read_handshake().unwrap();
        peer.ping().unwrap();
        daemon.assert_serves();
    }
}

#[test]
fn a_request_of_several_parts_gets_one_error() {
    let daemon = Daemon::start();
    let mut peer = RawPeer::open(daemon.address()).unwrap();
    for parts in [&[&b""[..], &ping(), b"more"][..], &[b"", b"", b"", b""]] {
        peer.send(&raw_peer::message(parts)).unwrap();
        assert_eq!(status(&peer.read_reply().unwrap()), DiscoveryStatus::Error);
        peer.ping().unwrap();
    }
}

#[test]
fn a_message_without_a_delimiter_or_a_body_is_dropped_and_the_next_request_answered() {
    let daemon = Daemon::start();
    let mut peer = RawPeer::open(daemon.address()).unwrap();
    for parts in [&[&ping()[..]][..], &[b"x", b"y", b"z"], &[b""], &[b"x", b""]] {
        peer.send(&raw_peer::message(parts)).unwrap();
        peer.ping().unwrap();
    }
    assert_eq!(
        peer.read_within(QUIET_PERIOD).unwrap(),
        Some(Vec::new()),
        "the daemon sends no other reply"
    );
}

#[test]
fn a_heartbeat_gets_its_context_in_the_pong() {
    let daemon = Daemon::start();
    let mut peer = RawPeer::open(daemon.address()).unwrap();
    for context in [&b""[..], b"x", b"sixteen bytes it"] {
        let data = [&b"\x00\x64"[..], context].concat();
        peer.send(&raw_peer::command("PING", &data)).unwrap();
        let pong = Traffic::Command("PONG".into(), context.to_vec());
        assert_eq!(peer.read_traffic().unwrap(), pong);
    }
    peer.send(&raw_peer::command("PONG", b"unasked")).unwrap();
    peer.ping().unwrap();
}

#[test]
fn a_connection_with_an_invalid_frame_is_closed() {
    let daemon = Daemon::start();
    let over = ping_of_size(1024 * 1024 + 1).len() as u64;
    for (what, bytes) in [
        ("a body of over 1 MiB", raw_peer::long_frame_header(0, over)),
        ("a body of 2^63 B", raw_peer::long_frame_header(0, 1 << 63)),
        ("a body of 2^64 - 1 B", raw_peer::long_frame_header(0, u64::MAX)),
        ("a command of 2^40 B", raw_peer::long_frame_header(COMMAND, 1 << 40)),
        ("flags that mean nothing", vec![0x80, 0]),
        ("a command of no bytes", vec![COMMAND, 0]),
        ("a command whose name is cut", vec![COMMAND, 2, 9, b'P']),
    ] {
        let mut peer = RawPeer::open(daemon.address()).unwrap();
        peer.send(&raw_peer::frame(MORE, b"")).unwrap();
        let at = if bytes[0] & COMMAND == 0 { &bytes[..] } else { &[&[0, 0], &bytes[..]].concat() };
        peer.send(at).unwrap();
        assert!(peer.read_to_close().is_ok(), "{what}");
    }
    daemon.assert_serves();
    let (_, peak) = daemon.memory_kib();
    assert!(peak < 50_000, "the daemon must not allocate the claimed length: {peak} KiB");
}

#[test]
fn a_connection_with_an_endless_message_is_closed() {
    let daemon = Daemon::start();
    let delimiter = raw_peer::frame(MORE, b"");
    for (what, start, part, count) in [
        ("frames before the delimiter", vec![], raw_peer::frame(MORE, &[b'x'; 200]), 1_000),
        ("parts of a body", delimiter.clone(), raw_peer::frame(MORE, &[b'x'; 200]), 10_000),
        ("empty parts of a body", delimiter, raw_peer::frame(MORE, b""), 1_100_000),
    ] {
        let mut peer = RawPeer::open(daemon.address()).unwrap();
        // The daemon closes the connection before all bytes are sent.
        let _ = peer.send(&[start, part.repeat(count)].concat());
        assert!(peer.read_to_close().is_ok(), "{what}");
        daemon.assert_serves();
    }
    let (_, peak) = daemon.memory_kib();
    assert!(peak < 50_000, "{peak} KiB at most");
}

#[test]
fn peers_that_disconnect_before_the_reply_leave_nothing_behind() {
    for daemon in [Daemon::start(), Daemon::start_tcp()] {
        let mut other = RawPeer::open(daemon.address()).unwrap();
        let conversation = conversation();
        for cut in (0..conversation.len()).step_by(3).chain([conversation.len()]) {
            let mut peer = RawPeer::connect(daemon.address()).unwrap();
            peer.send(&conversation[..cut]).unwrap();
            drop(peer);
            other.ping().unwrap();
        }
    }
}

#[test]
fn an_unfinished_handshake_times_out_while_other_peers_are_served() {
    let daemon = Daemon::start();
    let mut idle = RawPeer::open(daemon.address()).unwrap();
    let started = Instant::now();
    let mut silent = RawPeer::connect(daemon.address()).unwrap();
    let mut greeted = RawPeer::connect(daemon.address()).unwrap();
    greeted.send(&raw_peer::greeting()).unwrap();
    let mut slow = RawPeer::connect(daemon.address()).unwrap();
    slow.read_greeting().unwrap();

    let greeting = raw_peer::greeting();
    let mut unsent = greeting.iter();
    for byte in unsent.by_ref() {
        // If the daemon has closed the connection, the next read shows it.
        let _ = slow.send(&[*byte]);
        if slow.read_within(Duration::from_secs(1)).unwrap().is_none() {
            break;
        }
        daemon.assert_serves();
    }
    assert!(unsent.len() > 0, "the daemon did not close the slow peer");
    let elapsed = started.elapsed();
    assert!(elapsed > Duration::from_secs(9), "closed too early: {elapsed:?}");
    assert_eq!(silent.read_to_close().unwrap().len(), GREETING_LENGTH);
    assert!(
        greeted.read_to_close().unwrap().len() > GREETING_LENGTH,
        "the daemon sent a greeting and READY"
    );
    idle.ping().unwrap();
}

#[test]
fn a_peer_that_never_reads_uses_little_memory_and_delays_no_other_peer() {
    let daemon = Daemon::start();
    let mut other = RawPeer::open(daemon.address()).unwrap();
    let list = register_topics(&mut other, 1000);

    let mut stalled = RawPeer::open(daemon.address()).unwrap();
    let requests = raw_peer::request_message(&DiscoveryRequest::list().to_bytes()).repeat(10_000);
    stalled.send_what_fits(&requests, Duration::from_secs(1)).unwrap();
    for _ in 0..100 {
        other.ping().unwrap();
    }
    assert_eq!(other.request_bytes(&DiscoveryRequest::list().to_bytes()).unwrap(), list);
    let (now, peak) = daemon.memory_kib();
    assert!(now < 50_000 && peak < 50_000, "{now} KiB in use, {peak} KiB at most");

    let before = daemon.processor_time();
    assert_eq!(other.read_within(Duration::from_secs(1)).unwrap(), Some(Vec::new()));
    let used = daemon.processor_time().saturating_sub(before);
    assert!(
        used < Duration::from_millis(300),
        "{used:?} of processor time in a second with a stalled peer"
    );

    let connected = daemon.open_files();
    drop(stalled);
    eventually("the daemon has closed its connection", TIMEOUT, || {
        (daemon.open_files() < connected).then_some(())
    });
    other.ping().unwrap();
}

#[test]
fn a_peer_that_reads_late_gets_every_reply() {
    let daemon = Daemon::start();
    let mut other = RawPeer::open(daemon.address()).unwrap();
    let list = register_topics(&mut other, 300);

    let mut late = RawPeer::open(daemon.address()).unwrap();
    let requests = raw_peer::request_message(&DiscoveryRequest::list().to_bytes()).repeat(1_000);
    let sent = late.send_what_fits(&requests, QUIET_PERIOD).unwrap();
    assert_eq!(sent, requests.len(), "the requests fit into the socket's buffer");
    other.ping().unwrap();
    for number in 0..1_000 {
        assert!(late.read_reply().unwrap() == list, "reply {number} is the list");
    }
    late.ping().unwrap();
}

#[test]
fn every_request_of_a_peer_that_disconnects_at_once_is_served() {
    const TOPICS: usize = 1_000;
    let daemon = Daemon::start();
    let mut other = RawPeer::open(daemon.address()).unwrap();
    register_topics(&mut other, TOPICS);

    let mut leaving = RawPeer::open(daemon.address()).unwrap();
    let unregister = |n| DiscoveryRequest::unregister(format!("/topic/{n}")).to_bytes();
    let requests: Vec<_> = (0..TOPICS).map(|n| raw_peer::request_message(&unregister(n))).collect();
    leaving.send(&requests.concat()).unwrap();
    drop(leaving);
    eventually("all topics are unregistered", TIMEOUT, || {
        let list =
            decode_response(&other.request_bytes(&DiscoveryRequest::list().to_bytes()).unwrap());
        list.topics.is_empty().then_some(())
    });
}

#[test]
fn requests_after_a_shutdown_in_the_same_write_are_answered() {
    for _ in 0..5 {
        let daemon = Daemon::start();
        let mut peer = RawPeer::open(daemon.address()).unwrap();
        let shutdown = DiscoveryRequest::shutdown().to_bytes();
        let register = DiscoveryRequest::register(topic("/late", "node")).to_bytes();
        let requests = [&ping(), &shutdown, &ping(), &register, &lookup("/late"), &lookup("/x")];
        peer.send(&requests.map(|body| raw_peer::request_message(body)).concat()).unwrap();
        let replies = requests.map(|_| decode_response(&peer.read_reply().unwrap()).message);
        assert_eq!(
            replies,
            ["pong", "Shutting down", "pong", "Registered topic: /late", "", "Topic /x not found"]
        );
        assert_eq!(peer.read_to_close().unwrap(), b"");
        assert_eq!(daemon.wait().code, Some(0));
    }
}

#[test]
fn a_request_before_a_violation_in_the_same_write_is_answered() {
    for daemon in [Daemon::start(), Daemon::start_tcp()] {
        for violation in [vec![0x80, 0], raw_peer::long_frame_header(0, u64::MAX), vec![COMMAND, 0]]
        {
            let mut peer = RawPeer::open(daemon.address()).unwrap();
            peer.send(&[raw_peer::request_message(&ping()), violation].concat()).unwrap();
            assert_eq!(decode_response(&peer.read_reply().unwrap()).message, "pong");
            assert!(peer.read_to_close().is_ok());
        }
        daemon.assert_serves();
    }
}

#[test]
fn many_different_unread_lists_use_little_memory_and_delay_no_other_peer() {
    let daemon = DaemonBuilder::at(&TestDir::new()).log_level(Some("info")).start();
    let mut other = RawPeer::open(daemon.address()).unwrap();
    let text = "t".repeat(1_000);
    let large = |name: &str, address: &str| {
        let info = topic(name, "node");
        let info = TopicInfo { address: address.into(), message_type: text.clone(), ..info };
        raw_peer::request_message(&DiscoveryRequest::register(info).to_bytes())
    };
    let registers: Vec<_> = (0..1_000).map(|n| large(&format!("/topic/{n}"), &text)).collect();
    for registers in registers.chunks(50) {
        other.send(&registers.concat()).unwrap();
        for _ in registers {
            assert_eq!(status(&other.read_reply().unwrap()), DiscoveryStatus::Ok);
        }
    }

    let (before, _) = daemon.memory_kib();
    let mut stalled = RawPeer::open(daemon.address()).unwrap();
    let list = raw_peer::request_message(&DiscoveryRequest::list().to_bytes());
    // Each REGISTER changes the topic, so that all lists differ.
    let pairs: Vec<_> =
        (0..32).flat_map(|n| [large("/topic/0", &format!("ipc:///{n}")), list.clone()]).collect();
    stalled.send_what_fits(&pairs.concat().repeat(50), Duration::from_secs(1)).unwrap();
    let started = Instant::now();
    for _ in 0..20 {
        other.ping().unwrap();
    }
    let took = started.elapsed();
    assert!(took < TIMEOUT, "{took:?} for 20 PINGs");
    let (now, peak) = daemon.memory_kib();
    report_measurement(&format!(
        "{before} KiB before, {peak} KiB at most; 20 PINGs of another peer: {took:?}"
    ));
    assert!(now < 60_000 && peak < 60_000, "{now} KiB in use, {peak} KiB at most");
}

#[test]
fn the_memory_for_a_peer_that_always_has_unread_replies_does_not_grow() {
    const UNREAD: usize = 800 * 1024;
    const ENVELOPE: usize = 16 * 1024;
    let daemon = DaemonBuilder::at(&TestDir::new()).log_level(Some("info")).start();
    let mut peer = RawPeer::open(daemon.address()).unwrap();
    let envelope = vec![b'e'; ENVELOPE];
    let request = raw_peer::message(&[&envelope, b"", &ping()]);
    let read_reply = |peer: &mut RawPeer| {
        let received = peer.read_traffic().unwrap();
        let Traffic::Message(frames) = received else { panic!("{received:?}") };
        assert_eq!((frames.len(), frames[0].len()), (3, ENVELOPE));
        assert_eq!(decode_response(&frames[2]).message, "pong");
    };
    let ahead = UNREAD / ENVELOPE;
    for _ in 0..ahead {
        peer.send(&request).unwrap();
    }
    // 160 MB pass through the connection.
    for _ in 0..10_000 {
        peer.send(&request).unwrap();
        read_reply(&mut peer);
    }
    let (now, peak) = daemon.memory_kib();
    report_measurement(&format!("{peak} KiB at most"));
    assert!(now < 40_000 && peak < 40_000, "{now} KiB in use, {peak} KiB at most");
    for _ in 0..ahead {
        read_reply(&mut peer);
    }
    peer.ping().unwrap();
}

/// Registers `topics` topics and returns the reply to LIST.
fn register_topics(peer: &mut RawPeer, topics: usize) -> Vec<u8> {
    for number in 0..topics {
        let register = DiscoveryRequest::register(topic(&format!("/topic/{number}"), "node"));
        let reply = peer.request_bytes(&register.to_bytes()).unwrap();
        assert_eq!(status(&reply), DiscoveryStatus::Ok);
    }
    let list = peer.request_bytes(&DiscoveryRequest::list().to_bytes()).unwrap();
    assert_eq!(decode_response(&list).topics.len(), topics);
    list
}

/// A heartbeat with a time to live in tenths of a second.
fn heartbeat(ttl: u16) -> Vec<u8> {
    raw_peer::command("PING", &[&ttl.to_be_bytes()[..], b"context"].concat())
}

#[test]
fn a_peer_is_closed_when_it_is_silent_for_the_time_to_live_of_its_heartbeats() {
    for daemon in [Daemon::start(), Daemon::start_tcp()] {
        let mut peer = RawPeer::open(daemon.address()).unwrap();
        // An idle connection lives for ever: also after a heartbeat that takes the time back.
        let mut idle = RawPeer::open(daemon.address()).unwrap();
        idle.send(&[heartbeat(2), heartbeat(0)].concat()).unwrap();
        let mut parked = RawPeer::open(daemon.address()).unwrap();
        let wait = DiscoveryRequest::wait("/never", 60_000).to_bytes();
        parked.send(&[heartbeat(2), raw_peer::request_message(&wait)].concat()).unwrap();
        assert_eq!(
            parked.read_traffic().unwrap(),
            Traffic::Command("PONG".into(), b"context".into())
        );
        assert_eq!(parked.read_to_close().unwrap(), b"", "a parked request does not keep it open");

        peer.send(&heartbeat(5)).unwrap();
        assert!(matches!(peer.read_traffic().unwrap(), Traffic::Command(..)));
        for _ in 0..10 {
            // Anything that comes counts, not only heartbeats.
            peer.ping().unwrap();
            assert_eq!(peer.read_within(Duration::from_millis(100)).unwrap(), Some(Vec::new()));
        }
        let silent_since = Instant::now();
        assert_eq!(peer.read_to_close().unwrap(), b"");
        let silence = silent_since.elapsed();
        // The last bytes came up to 100 ms before.
        assert!(silence > Duration::from_millis(350), "{silence:?}");
        assert!(silence < Duration::from_secs(5), "{silence:?}");
        let pong = idle.read_traffic().unwrap();
        assert_eq!((&pong, &idle.read_traffic().unwrap()), (&pong, &pong));
        idle.ping().unwrap();
    }
}

#[test]
fn bytes_that_the_daemon_has_not_read_are_a_sign_of_life() {
    let daemon = Daemon::start();
    let mut peer = RawPeer::open(daemon.address()).unwrap();
    peer.send(&heartbeat(5)).unwrap();
    assert!(matches!(peer.read_traffic().unwrap(), Traffic::Command(..)));
    daemon.signal(Signal::STOP);
    peer.send(&heartbeat(5)).unwrap();
    // Longer than the time to live: only the daemon stands still.
    assert_eq!(peer.read_within(Duration::from_millis(1200)).unwrap(), Some(Vec::new()));
    daemon.signal(Signal::CONT);
    assert!(matches!(peer.read_traffic().unwrap(), Traffic::Command(..)));
    peer.ping().unwrap();
}
