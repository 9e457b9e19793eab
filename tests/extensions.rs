//! The extensions of level 1, used by a libzmq peer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cortex_proto::{
    DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, EndpointState, EntryExt, Hold,
    RequestExt, RequestedCommand, ResponseExt, Session, TopicInfo,
};
use cortex_tests::daemon::{Daemon, DaemonBuilder};
use cortex_tests::deadline::{TIMEOUT, eventually};
use cortex_tests::messages::{
    decode_response, hello, register_in_session, register_static, topic, topic_at, topic_names,
};
use cortex_tests::process::Process;
use cortex_tests::raw_peer::{self, RawPeer};
use cortex_tests::test_dir::TestDir;
use cortex_tests::zmq_peer::ZmqPeer;
use cortex_tests::{hex, report_measurement};
use rustix::process::{Signal, getpid, getuid};

/// The shortest possible lease.
const MIN_LEASE: Duration = Duration::from_millis(500);
const MIN_LEASE_MS: u64 = 500;

fn session(id: &str, lease_ms: Option<u64>) -> Session {
    Session { id: id.into(), lease_ms }
}

fn register_with(
    info: TopicInfo,
    hold: Option<Hold>,
    session: Option<Session>,
) -> DiscoveryRequest {
    DiscoveryRequest::register(info).with_ext(RequestExt { hold, session, ..RequestExt::default() })
}

fn describe(peer: &ZmqPeer, name: &str) -> Option<EntryExt> {
    let found = peer.request(&DiscoveryRequest::lookup(name).with_ext(RequestExt::default()));
    assert_ne!(found.status, DiscoveryStatus::Error, "{}", found.message);
    let entry = found.ext.unwrap().entry;
    assert_eq!(entry.is_some(), found.topic_info.is_some());
    entry
}

fn expect_ok(response: DiscoveryResponse) -> ResponseExt {
    assert_eq!(response.status, DiscoveryStatus::Ok, "{}", response.message);
    response.ext.unwrap()
}

fn renew(peer: &ZmqPeer, id: &str) -> (Option<bool>, Option<u64>) {
    let ext = expect_ok(peer.request(&DiscoveryRequest::renew(session(id, None))));
    (ext.known, ext.lease_ms)
}

/// Waits for this time without sending a request.
fn stay_idle(peer: &ZmqPeer, time: Duration) {
    assert!(
        !peer.receives_within(time.as_millis().try_into().unwrap()),
        "a reply without a request"
    );
}

/// Sends these requests from another process of this user, which then exits.
fn request_in_process_that_exits(daemon: &Daemon, requests: &[DiscoveryRequest]) {
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_raw-peer")));
    command.arg(daemon.address());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::spawn(&mut command);
    for request in requests {
        process.write_line(&hex::encode(&request.to_bytes()));
    }
    let output = process.wait();
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    for reply in output.stdout.lines() {
        assert_eq!(decode_response(&hex::decode(reply)).status, DiscoveryStatus::Ok);
    }
    assert_eq!(output.stdout.lines().count(), requests.len());
}

#[test]
fn hello_describes_the_daemon() {
    let daemon = Daemon::start();
    let peer = ZmqPeer::req(daemon.address());
    let info = expect_ok(peer.request(&hello()));
    assert_eq!(info.level, Some(1));
    let server = concat!("cortex-discovery/", env!("CARGO_PKG_VERSION"));
    assert_eq!(info.server.as_deref(), Some(server));
    let pid = daemon.process().pid().as_raw_nonzero().get();
    assert_eq!(info.pid, u64::try_from(pid).ok());
    assert_eq!((info.revision, info.topics), (Some(0), Some(0)));
    assert!(info.uptime_ms.unwrap() < 60_000, "{info:?}");
    assert_eq!(info.cancel, Some(true));

    for name in ["/a", "/b"] {
        let reply = expect_ok(peer.request(&register_with(topic(name, "node"), None, None)));
        assert!(reply.revision.is_some() && reply.lease_ms.is_none(), "{reply:?}");
    }
    assert_eq!(
        peer.request(&DiscoveryRequest::unregister("/a")).ext,
        None,
        "the request has no ext"
    );
    let later = expect_ok(peer.request(&hello()));
    assert_eq!((later.epoch, later.level), (info.epoch, Some(1)));
    assert_eq!((later.revision, later.topics), (Some(3), Some(1)));
    assert!(later.uptime_ms >= info.uptime_ms);
    let plain = peer.request_bytes(&DiscoveryRequest::ping().to_bytes());
    assert_eq!(
        plain, b"\x82\xa6status\x00\xa7message\xa4pong",
        "without ext the reply is that of a legacy daemon"
    );
}

#[test]
fn describe_names_the_owner_and_the_hold_of_a_topic() {
    let daemon = DaemonBuilder::at(&TestDir::new()).with_tcp().start();
    let [ipc, tcp] = daemon.addresses() else { panic!("two addresses") };
    let (peer, tcp_peer) = (ZmqPeer::req(ipc), ZmqPeer::req(tcp));
    let data = zmq::Context::new().socket(zmq::PUB).unwrap();
    data.bind("tcp://127.0.0.1:*").unwrap();
    let endpoint = data.get_last_endpoint().unwrap().unwrap();

    for request in [
        register_with(topic("/process", "node"), Some(Hold::Process), None),
        register_static(topic("/static", "node")),
        register_in_session(topic("/session", "node"), "session", 60_000),
    ] {
        expect_ok(peer.request(&request));
    }
    expect_ok(tcp_peer.request(&register_with(
        topic_at("/unknown", "node", &endpoint),
        None,
        None,
    )));
    eventually("the daemon judges the endpoint alive", TIMEOUT, || {
        let entry = describe(&peer, "/unknown").unwrap();
        (entry.endpoint == EndpointState::Alive).then_some(())
    });

    let listed = peer.request(&DiscoveryRequest::list().with_ext(RequestExt::default()));
    assert_eq!(topic_names(&listed), ["/process", "/static", "/session", "/unknown"]);
    let entries = expect_ok(listed).entries.unwrap();
    let holds: Vec<_> = entries.iter().map(|entry| entry.hold.clone()).collect();
    assert_eq!(holds, [Hold::Process, Hold::Static, Hold::Session, Hold::Process]);
    let user = Some(u64::from(getuid().as_raw()));
    let process = u64::try_from(getpid().as_raw_nonzero().get()).ok();
    let whose: Vec<_> = entries.iter().map(|entry| (entry.uid, entry.pid)).collect();
    let own = (user, process);
    assert_eq!(whose, [own, own, own, (None, None)]);
    let revisions: Vec<_> = entries.iter().map(|entry| entry.revision).collect();
    assert_eq!(revisions, [1, 2, 3, 4]);
    assert!(entries.iter().all(|entry| entry.age_ms < 60_000), "{entries:?}");
    assert_eq!(describe(&peer, "/process").unwrap().revision, 1);
    assert_eq!(describe(&peer, "/nope"), None);
    assert_eq!(peer.request(&DiscoveryRequest::list()).ext, None, "the request has no ext");
}

#[test]
fn only_static_and_session_topics_outlive_their_process() {
    let daemon = Daemon::start();
    let requests = [
        register_static(topic("/static", "node")),
        register_in_session(topic("/session", "node"), "session", 60_000),
        DiscoveryRequest::register(topic("/process", "node")),
    ];
    request_in_process_that_exits(&daemon, &requests);
    let peer = ZmqPeer::req(daemon.address());
    eventually("the daemon has evicted the topic of the process", TIMEOUT, || {
        describe(&peer, "/process").is_none().then_some(())
    });
    assert_eq!(topic_names(&peer.request(&DiscoveryRequest::list())), ["/static", "/session"]);
    assert_eq!(
        renew(&peer, "session"),
        (Some(true), Some(60_000)),
        "another process can renew the session"
    );
}

#[test]
fn a_session_lasts_as_long_as_it_is_renewed() {
    let daemon = Daemon::start();
    let peer = ZmqPeer::req(daemon.address());
    for name in ["/a", "/b"] {
        let reply = expect_ok(peer.request(&register_in_session(
            topic(name, "node"),
            "session",
            MIN_LEASE_MS,
        )));
        assert_eq!(reply.lease_ms, Some(MIN_LEASE_MS));
    }
    let end = Instant::now() + 4 * MIN_LEASE;
    let mut renewed = Instant::now();
    while Instant::now() < end {
        renewed = Instant::now();
        assert_eq!(renew(&peer, "session"), (Some(true), Some(MIN_LEASE_MS)));
        assert!(describe(&peer, "/a").is_some() && describe(&peer, "/b").is_some());
        stay_idle(&peer, MIN_LEASE / 4);
    }
    eventually("the daemon has evicted the topics of the session", TIMEOUT, || {
        describe(&peer, "/a").is_none().then_some(())
    });
    let took = renewed.elapsed();
    assert!(describe(&peer, "/b").is_none(), "both topics are evicted together");
    report_measurement(&format!("a lease of {MIN_LEASE:?} expired after {took:?}"));
    assert!(took >= MIN_LEASE && took < 10 * MIN_LEASE, "{took:?}");
    assert_eq!(renew(&peer, "session").0, Some(false), "the session has ended");
    let log_line = daemon.process().stderr_line("the eviction", |line| {
        (line.contains("evicted") && line.contains("/a")).then(|| line.to_owned())
    });
    assert!(log_line.contains("lease expired"), "{log_line}");
}

#[test]
fn a_lease_is_between_half_a_second_and_a_day() {
    let daemon = Daemon::start();
    let peer = ZmqPeer::req(daemon.address());
    for (requested, given) in
        [(None, 10_000), (Some(1), 500), (Some(700), 700), (Some(u64::MAX), 86_400_000)]
    {
        let id = format!("{requested:?}");
        let request = register_with(topic("/x", "node"), None, Some(session(&id, requested)));
        assert_eq!(expect_ok(peer.request(&request)).lease_ms, Some(given));
        assert_eq!(renew(&peer, &id), (Some(true), Some(given)));
    }
}

#[test]
fn a_session_belongs_to_its_user() {
    let daemon = DaemonBuilder::at(&TestDir::new()).with_tcp().start();
    let [ipc, tcp] = daemon.addresses() else { panic!("two addresses") };
    let (peer, tcp_peer) = (ZmqPeer::req(ipc), ZmqPeer::req(tcp));
    expect_ok(peer.request(&register_in_session(topic("/x", "node"), "same", 60_000)));
    assert_eq!(renew(&tcp_peer, "same").0, Some(false));
    expect_ok(tcp_peer.request(&register_in_session(topic("/y", "node"), "same", 70_000)));
    assert_eq!(renew(&tcp_peer, "same"), (Some(true), Some(70_000)));
    assert_eq!(
        renew(&ZmqPeer::req(tcp), "same"),
        (Some(true), Some(70_000)),
        "unidentified peers share their sessions"
    );
    assert_eq!(renew(&peer, "same"), (Some(true), Some(60_000)));
}

#[test]
fn a_daemon_that_was_stopped_for_longer_than_a_lease_expires_no_session() {
    let daemon = Daemon::start();
    let peer = ZmqPeer::req(daemon.address());
    expect_ok(peer.request(&register_in_session(topic("/x", "node"), "session", MIN_LEASE_MS)));
    daemon.signal(Signal::STOP);
    stay_idle(&peer, 5 * MIN_LEASE);
    daemon.signal(Signal::CONT);
    let woken = Instant::now();
    assert!(describe(&peer, "/x").is_some(), "no client could renew the session meanwhile");
    assert_eq!(renew(&peer, "session").0, Some(true));
    eventually("the session has expired", TIMEOUT, || {
        describe(&peer, "/x").is_none().then_some(())
    });
    assert!(woken.elapsed() >= MIN_LEASE, "the session had a full lease: {:?}", woken.elapsed());
}

#[test]
fn a_renewal_that_arrived_in_time_counts_even_if_it_is_read_late() {
    let daemon = Daemon::start();
    let peer = ZmqPeer::req(daemon.address());
    expect_ok(peer.request(&register_in_session(topic("/x", "node"), "session", MIN_LEASE_MS)));
    daemon.signal(Signal::STOP);
    peer.socket().send(DiscoveryRequest::renew(session("session", None)).to_bytes(), 0).unwrap();
    // Longer than the lease, but too short for the daemon to detect a suspend.
    stay_idle(&peer, MIN_LEASE + MIN_LEASE / 2);
    daemon.signal(Signal::CONT);
    assert_eq!(expect_ok(decode_response(&peer.receive())).known, Some(true));
    assert!(describe(&peer, "/x").is_some());
}

#[test]
fn a_renewal_on_a_connection_that_was_opened_in_time_counts() {
    let daemon = Daemon::start();
    let peer = ZmqPeer::req(daemon.address());
    expect_ok(peer.request(&register_in_session(topic("/x", "node"), "session", MIN_LEASE_MS)));
    daemon.signal(Signal::STOP);
    // A legacy client does this after a timeout: it connects again and repeats the request.
    let again = ZmqPeer::req(daemon.address());
    again.socket().send(DiscoveryRequest::renew(session("session", None)).to_bytes(), 0).unwrap();
    stay_idle(&peer, MIN_LEASE + MIN_LEASE / 2);
    daemon.signal(Signal::CONT);
    assert_eq!(expect_ok(decode_response(&again.receive())).known, Some(true));
}

#[test]
fn leases_restart_with_the_daemon() {
    let builder = DaemonBuilder::at(&TestDir::new());
    let daemon = builder.start();
    let peer = ZmqPeer::req(daemon.address());
    expect_ok(peer.request(&register_in_session(topic("/x", "node"), "session", MIN_LEASE_MS)));
    assert_eq!(daemon.kill().signal, Some(9));
    stay_idle(&peer, 2 * MIN_LEASE);
    let daemon = builder.start();
    let peer = ZmqPeer::req(daemon.address());
    assert_eq!(renew(&peer, "session"), (Some(true), Some(MIN_LEASE_MS)));
}

#[test]
fn an_unregister_with_a_condition_does_nothing_when_the_condition_is_false() {
    let daemon = Daemon::start();
    let peer = ZmqPeer::req(daemon.address());
    let guarded = |publisher_node: Option<&str>, revision| {
        let publisher_node = publisher_node.map(str::to_owned);
        let ext = RequestExt { publisher_node, revision, ..RequestExt::default() };
        peer.request(&DiscoveryRequest::unregister("/x").with_ext(ext))
    };
    let register = register_with(topic("/x", "node"), None, None);
    let revision = expect_ok(peer.request(&register)).revision.unwrap();
    for (node, number, in_message) in [
        (Some("another"), None, "another"),
        (None, Some(revision + 1), "revision"),
        (Some("node"), Some(revision + 1), "revision"),
        (Some("another"), Some(revision), "another"),
    ] {
        let refused = guarded(node, number);
        assert_eq!(refused.status, DiscoveryStatus::Error, "{node:?} {number:?}");
        assert!(refused.message.contains(in_message), "{}", refused.message);
        assert!(refused.ext.is_some() && describe(&peer, "/x").is_some());
    }
    for (node, number) in [(Some("node"), None), (None, Some(0)), (Some("node"), Some(0))] {
        let number = number.map(|_| describe(&peer, "/x").unwrap().revision);
        expect_ok(guarded(node, number));
        assert!(describe(&peer, "/x").is_none());
        assert_eq!(guarded(node, number).status, DiscoveryStatus::NotFound);
        expect_ok(peer.request(&register));
    }
}

#[test]
fn invalid_holds_are_refused() {
    let daemon = Daemon::start();
    let peer = ZmqPeer::req(daemon.address());
    let one = || Some(session("session", None));
    for (hold, session, in_message) in [
        (Some(Hold::Other("for ever".into())), None, "for ever"),
        (Some(Hold::Session), None, "ext.session"),
        (Some(Hold::Static), one(), "only one"),
        (Some(Hold::Process), one(), "only one"),
        (None, Some(session("", None)), "0 bytes"),
        (None, Some(session(&"s".repeat(65), None)), "65 bytes"),
    ] {
        let refused = peer.request(&register_with(topic("/x", "node"), hold, session));
        assert_eq!(refused.status, DiscoveryStatus::Error);
        assert!(refused.message.contains(in_message), "{}", refused.message);
        assert!(refused.ext.is_some());
    }
    for id in ["", &"s".repeat(65)] {
        let refused = peer.request(&DiscoveryRequest::renew(session(id, None)));
        assert_eq!(refused.status, DiscoveryStatus::Error);
        assert!(refused.ext.is_some());
    }
    assert_eq!(topic_names(&peer.request(&DiscoveryRequest::list())), [""; 0]);
}

#[test]
fn a_request_for_an_extension_gets_one_also_with_an_error() {
    let daemon = Daemon::start();
    let peer = ZmqPeer::req(daemon.address());
    for (number, has_ext) in
        [(63, false), (64, true), (66, true), (69, true), (95, true), (96, false)]
    {
        let command = RequestedCommand::from_number(number);
        let bare = peer.request(&DiscoveryRequest { command, ..DiscoveryRequest::ping() });
        assert_eq!(bare.status, DiscoveryStatus::Error, "{number}: {}", bare.message);
        assert_eq!(bare.ext.is_some(), has_ext, "{number}: {}", bare.message);
        let extended = peer.request(&DiscoveryRequest { command, ..hello() });
        assert_eq!(extended.status, DiscoveryStatus::Error, "{number}: {}", extended.message);
        assert!(extended.ext.is_some(), "{number}: {}", extended.message);
    }
    // {command: 5, ext: {}, topic_name: 7}
    let unreadable =
        decode_response(&peer.request_bytes(b"\x83\xa7command\x05\xa3ext\x80\xaatopic_name\x07"));
    assert_eq!(unreadable.status, DiscoveryStatus::Error);
    assert!(unreadable.ext.is_some(), "{}", unreadable.message);
    let not_found =
        peer.request(&DiscoveryRequest::unregister("/x").with_ext(RequestExt::default()));
    assert_eq!(not_found.status, DiscoveryStatus::NotFound);
    assert!(not_found.ext.is_some());
}

#[test]
fn the_daemon_keeps_to_its_limit_of_topics() {
    let daemon = DaemonBuilder::at(&TestDir::new()).args(["--max-topics", "3"]).start();
    let peer = ZmqPeer::req(daemon.address());
    let register = |name: &str| peer.request(&DiscoveryRequest::register(topic(name, "node")));
    for name in ["/a", "/b", "/c", "/a"] {
        assert_eq!(register(name).status, DiscoveryStatus::Ok, "{name}");
    }
    let refused = register("/d");
    assert_eq!(refused.status, DiscoveryStatus::Error);
    assert!(refused.message.contains("/d") && refused.message.contains('3'), "{}", refused.message);
    let moved = topic_at("/b", "node", "ipc:///elsewhere");
    assert_eq!(peer.request(&DiscoveryRequest::register(moved)).status, DiscoveryStatus::Ok);
    assert_eq!(peer.request(&DiscoveryRequest::unregister("/a")).status, DiscoveryStatus::Ok);
    assert_eq!(register("/d").status, DiscoveryStatus::Ok);
    assert_eq!(topic_names(&peer.request(&DiscoveryRequest::list())), ["/b", "/c", "/d"]);
    daemon.signal(Signal::TERM);
    let log = daemon.wait().stderr;
    assert!(log.contains("over_limit=1"), "the log counts it:\n{log}");
}

#[test]
fn the_daemon_keeps_to_its_limit_of_connections() {
    let tcp = DaemonBuilder::at_address(&TestDir::new(), "tcp://127.0.0.1:0");
    // Unidentified TCP peers together get the share of one user: half.
    for (builder, most) in [(DaemonBuilder::at(&TestDir::new()), 4), (tcp, 2)] {
        let daemon = builder.args(["--max-connections", "4"]).start();
        let mut peers: Vec<_> = Vec::new();
        // The connection with which the harness waited for the daemon may still be open.
        while peers.len() < most {
            let peer = eventually("a connection is free", TIMEOUT, || {
                let mut peer = RawPeer::open(daemon.address()).ok()?;
                peer.ping().is_ok().then_some(peer)
            });
            peers.push(peer);
        }
        let refused = RawPeer::open(daemon.address()).and_then(|mut peer| peer.ping());
        assert!(refused.is_err(), "the daemon closes a connection beyond the limit");
        for peer in &mut peers {
            peer.ping().unwrap();
        }
        peers.pop();
        let mut new = eventually("a connection is free again", TIMEOUT, || {
            let mut peer = RawPeer::open(daemon.address()).ok()?;
            peer.ping().is_ok().then_some(peer)
        });
        new.ping().unwrap();
        daemon.signal(Signal::TERM);
        let output = daemon.wait();
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        assert!(output.stderr.contains("refused="), "the log counts it:\n{}", output.stderr);
        assert!(!output.stderr.contains("refused=0"), "the log counts it:\n{}", output.stderr);
    }
    let none = DaemonBuilder::at(&TestDir::new()).args(["--max-connections", "0"]).run();
    assert_eq!(none.code, Some(2), "{}", none.stderr);
}

/// A peer that reads no replies has a lease of 3 s, and its renewal waits behind other requests.
#[test]
fn a_session_outlives_its_lease_once_while_its_renewal_waits() {
    const LEASE: Duration = Duration::from_secs(3);
    const LISTS: usize = 40;
    let daemon = Daemon::start();
    let mut observer = daemon.raw_peer();
    for number in 0..1000 {
        let address = format!("ipc:///{}", "x".repeat(500));
        let register = register_static(topic_at(&format!("/{number}"), "node", &address));
        observer.request(&register).unwrap();
    }
    let mut peer = daemon.raw_peer();
    let lease_ms = u64::try_from(LEASE.as_millis()).unwrap();
    peer.request(&register_in_session(topic("/held", "node"), "slow", lease_ms)).unwrap();
    let lists = raw_peer::request_message(&DiscoveryRequest::list().to_bytes()).repeat(LISTS);
    let renew = DiscoveryRequest::renew(session("slow", None));
    let renew = raw_peer::request_message(&renew.to_bytes());
    let mut renew_behind_lists = |peer: &mut RawPeer| {
        peer.send(&lists).unwrap();
        // The daemon has handled the LISTs by now, and reads no further requests of the peer.
        observer.ping().unwrap();
        observer.ping().unwrap();
        peer.send(&renew).unwrap();
        assert_stays_listed(&mut observer, "/held", LEASE + LEASE / 3);
    };

    renew_behind_lists(&mut peer);
    for _ in 0..LISTS {
        assert_eq!(decode_response(&peer.read_reply().unwrap()).topics.len(), 1001);
    }
    let renewed = expect_ok(decode_response(&peer.read_reply().unwrap()));
    assert_eq!(renewed.known, Some(true), "a full lease begins");
    // A peer that never reads keeps its topics for one lease more, not for ever.
    renew_behind_lists(&mut peer);
    eventually("the session has ended", TIMEOUT, || {
        (!is_listed(&mut observer, "/held")).then_some(())
    });
}

fn is_listed(peer: &mut RawPeer, name: &str) -> bool {
    peer.request(&DiscoveryRequest::lookup(name)).unwrap().status == DiscoveryStatus::Ok
}

fn assert_stays_listed(peer: &mut RawPeer, name: &str, duration: Duration) {
    let start = Instant::now();
    while start.elapsed() < duration {
        assert!(is_listed(peer, name), "{name} is gone after {:?}", start.elapsed());
        assert_eq!(peer.read_within(Duration::from_millis(20)).unwrap(), Some(Vec::new()));
    }
}
