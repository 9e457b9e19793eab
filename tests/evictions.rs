//! Evictions: which topics the daemon evicts when a publisher exits, stops or leaves a child.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::time::{Duration, Instant};

use cortex_proto::{DiscoveryRequest, DiscoveryStatus, EndpointState, EntryExt, RequestExt};
use cortex_tests::daemon::{Daemon, DaemonBuilder};
use cortex_tests::deadline::{TIMEOUT, eventually};
use cortex_tests::messages::{topic_at, topic_names};
use cortex_tests::publisher_host::{Endpoint, Publisher, PublisherHost, PublisherSpec};
use cortex_tests::raw_peer::RawPeer;
use cortex_tests::test_dir::{TestDir, ipc_address};
use cortex_tests::{python, report_measurement};
use rustix::process::{Pid, Signal};

/// The longest time from a publisher's exit to the eviction of its topics. The requirement is
/// 50 ms; a busy machine gets ten times that.
const MAX_EVICTION_DELAY: Duration = Duration::from_millis(500);
/// Long enough for five probes of an endpoint that answers.
const FIVE_PROBE_INTERVALS: Duration = Duration::from_millis(500);

/// A daemon with the shortest probe interval.
fn daemon_with_fast_probes() -> DaemonBuilder {
    DaemonBuilder::at(&TestDir::new()).args(["--probe-interval", "100ms"])
}

fn is_registered(peer: &mut RawPeer, name: &str) -> bool {
    match peer.request(&DiscoveryRequest::lookup(name)).unwrap().status {
        DiscoveryStatus::Ok => true,
        DiscoveryStatus::NotFound => false,
        other @ (DiscoveryStatus::AlreadyExists | DiscoveryStatus::Error) => {
            panic!("{name}: {other:?}")
        }
    }
}

fn entry(peer: &mut RawPeer, name: &str) -> EntryExt {
    let describe = DiscoveryRequest::lookup(name).with_ext(RequestExt::default());
    peer.request(&describe).unwrap().ext.unwrap().entry.unwrap()
}

fn register(peer: &mut RawPeer, name: &str, node: &str) -> DiscoveryStatus {
    // The endpoint needs no listener: the owner is this test's process, which runs.
    let info = topic_at(name, node, "ipc:///nowhere/at/all.sock");
    peer.request(&DiscoveryRequest::register(info)).unwrap().status
}

/// Waits until a topic is evicted and returns the time since `since`.
fn wait_until_evicted(peer: &mut RawPeer, name: &str, since: Instant) -> Duration {
    eventually(&format!("{name} is evicted"), TIMEOUT, || {
        (!is_registered(peer, name)).then_some(())
    });
    since.elapsed()
}

/// Checks repeatedly for `duration` that the topic is registered.
fn assert_stays_registered(peer: &mut RawPeer, name: &str, duration: Duration) {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        assert!(is_registered(peer, name), "{name} is evicted");
        assert_eq!(peer.read_within(Duration::from_millis(10)).unwrap(), Some(Vec::new()));
    }
}

fn process_state(pid: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn is_zombie(pid: Pid) -> bool {
    process_state(pid) == Some('Z')
}

fn eviction_log_line(daemon: &Daemon, name: &str) -> String {
    daemon.process().stderr_line("the eviction", |line| {
        let is_it = line.contains("evicted") && line.contains(name);
        (is_it && line.contains("INFO")).then(|| line.to_owned())
    })
}

fn median_and_slowest(mut delays: Vec<Duration>) -> String {
    delays.sort();
    let Some(slowest) = delays.last() else { return "never".into() };
    format!("median {:?}, slowest {:?}", delays[delays.len() / 2], slowest)
}

#[test]
fn the_topics_of_a_killed_publisher_are_evicted_although_it_is_a_zombie() {
    let daemon = Daemon::start();
    let mut peer = daemon.raw_peer();
    let data = ipc_address(&daemon.test_dir().path("data.sock"));
    let line = format!(
        "bind {data} then register /camera node {data} then register /lidar node {data} then hold"
    );
    let arguments: Vec<_> = [daemon.address()].into_iter().chain(line.split(' ')).collect();
    let delays = (0..5).map(|_| {
        // An unmodified publisher. Its parent is this process, which does not reap it.
        let publisher = python::spawn("node.py", &arguments);
        publisher.stdout_line("the publisher has registered its topics", |line| {
            line.contains("Registered topic: /lidar").then_some(())
        });
        assert!(is_registered(&mut peer, "/camera"));
        publisher.signal(Signal::KILL);
        let killed = Instant::now();
        let delay = wait_until_evicted(&mut peer, "/camera", killed);
        assert!(!is_registered(&mut peer, "/lidar"), "both topics are evicted together");
        assert!(is_zombie(publisher.pid()), "the publisher is not reaped");
        assert!(delay < MAX_EVICTION_DELAY, "{delay:?}");
        delay
    });
    report_measurement(&format!(
        "evicted after the kill (ipc): {}",
        median_and_slowest(delays.collect())
    ));
    let log_line = eviction_log_line(&daemon, "/camera");
    assert!(log_line.contains("owner exited"), "{log_line}");
}

#[test]
fn the_topics_of_a_killed_publisher_with_a_tcp_endpoint_are_evicted() {
    let daemon = Daemon::start();
    let mut peer = daemon.raw_peer();
    let mut host = PublisherHost::start(daemon.address());
    let delays = (0..10).map(|_| {
        let publisher = host.start_publisher("node", "tcp://127.0.0.1:*", &["/a", "/b"]);
        publisher.assert_registered();
        assert!(is_registered(&mut peer, "/a"));
        publisher.signal(Signal::KILL);
        let killed = Instant::now();
        let delay = wait_until_evicted(&mut peer, "/a", killed);
        assert!(!is_registered(&mut peer, "/b"), "both topics are evicted together");
        assert!(delay < MAX_EVICTION_DELAY, "{delay:?}");
        delay
    });
    report_measurement(&format!(
        "evicted after the kill (tcp): {}",
        median_and_slowest(delays.collect())
    ));
}

#[test]
fn another_node_can_register_the_topic_of_a_zombie_publisher() {
    let (refused, delays) = take_over_topic_50_times(Publisher::kill);
    report_measurement(&format!(
        "another node registered the topic after the exit: {}",
        median_and_slowest(delays)
    ));
    assert_eq!(refused, [0; 0], "rounds in which the daemon refused the REGISTER");
}

#[test]
fn another_node_can_register_the_topic_of_a_publisher_that_was_just_killed() {
    // `kill` returns before the other process has ended.
    let (refused, delays) = take_over_topic_50_times(|publisher| publisher.signal(Signal::KILL));
    report_measurement(&format!(
        "another node registered the topic after the kill: {}",
        median_and_slowest(delays)
    ));
    assert_eq!(refused, [0; 0], "rounds in which the daemon refused the REGISTER");
}

/// Kills a publisher and registers its topic for another node, 50 times. Returns the rounds in
/// which the daemon refused the REGISTER, and the durations of the others.
fn take_over_topic_50_times(kill: impl Fn(&Publisher)) -> (Vec<usize>, Vec<Duration>) {
    let daemon = daemon_with_fast_probes().start();
    let mut peer = daemon.raw_peer();
    let mut host = PublisherHost::start(daemon.address());
    let path = ipc_address(&daemon.test_dir().path("data.sock"));
    let (mut refused, mut delays) = (Vec::new(), Vec::new());
    for round in 0..50 {
        let address = if round % 2 == 0 { path.as_str() } else { "tcp://127.0.0.1:*" };
        let publisher = host.start_publisher("first", address, &["/camera"]);
        publisher.assert_registered();
        assert_eq!(
            register(&mut peer, "/camera", "second"),
            DiscoveryStatus::AlreadyExists,
            "the first publisher still runs"
        );
        kill(&publisher);
        let killed = Instant::now();
        match register(&mut peer, "/camera", "second") {
            DiscoveryStatus::Ok => delays.push(killed.elapsed()),
            DiscoveryStatus::AlreadyExists => {
                refused.push(round);
                eventually("the second node has registered the topic", TIMEOUT, || {
                    (register(&mut peer, "/camera", "second") == DiscoveryStatus::Ok).then_some(())
                });
            }
            other @ (DiscoveryStatus::NotFound | DiscoveryStatus::Error) => panic!("{other:?}"),
        }
        assert!(is_zombie(publisher.pid), "the publisher is not reaped");
        let found = peer.request(&DiscoveryRequest::lookup("/camera")).unwrap();
        assert_eq!(found.topic_info.unwrap().publisher_node, "second");
        let gone = peer.request(&DiscoveryRequest::unregister("/camera")).unwrap();
        assert_eq!(gone.status, DiscoveryStatus::Ok);
    }
    (refused, delays)
}

#[test]
fn a_topic_stays_when_a_new_process_of_the_same_node_registers_it() {
    let daemon = daemon_with_fast_probes().start();
    let mut peer = daemon.raw_peer();
    let mut host = PublisherHost::start(daemon.address());
    let address = ipc_address(&daemon.test_dir().path("data.sock"));
    let mut current = host.start_publisher("node", &address, &["/camera"]);
    for _ in 0..10 {
        current.assert_registered();
        current.signal(Signal::KILL);
        current = host.start_publisher("node", &address, &["/camera"]);
    }
    current.assert_registered();
    // Late probe results for earlier processes do not concern this registration.
    assert_stays_registered(&mut peer, "/camera", FIVE_PROBE_INTERVALS);
    let pid = current.pid.as_raw_nonzero().get();
    assert_eq!(entry(&mut peer, "/camera").pid, u64::try_from(pid).ok());
}

#[test]
fn a_running_publisher_is_never_evicted() {
    let daemon = daemon_with_fast_probes().with_tcp().start();
    let [ipc, tcp] = daemon.addresses() else { panic!("two addresses") };
    let mut peer = daemon.raw_peer();
    let address = |name: &str| ipc_address(&daemon.test_dir().path(name));
    let mut seen_host = PublisherHost::start(ipc);
    let mut unseen_host = PublisherHost::start(tcp);
    let spec = |node, address, endpoint| PublisherSpec {
        node,
        address,
        topics: &[],
        endpoint,
        disconnects: true,
    };
    let (one, other) = (address("seen.sock"), address("unseen.sock"));
    let topics = |name: &str| [name.to_owned()];
    let publishers = [
        seen_host.start_publisher_with(&PublisherSpec {
            topics: &topics("/seen"),
            ..spec("seen", &one, Endpoint::OwnSocket)
        }),
        seen_host.start_publisher_with(&PublisherSpec {
            topics: &topics("/nowhere"),
            ..spec("nowhere", "ipc:///nowhere/at/all.sock", Endpoint::Unbound)
        }),
        unseen_host.start_publisher_with(&PublisherSpec {
            topics: &topics("/unseen"),
            ..spec("unseen", &other, Endpoint::OwnSocket)
        }),
    ];
    publishers.iter().for_each(Publisher::assert_registered);
    eventually("the daemon judges the unseen publisher alive", TIMEOUT, || {
        (entry(&mut peer, "/unseen").endpoint == EndpointState::Alive).then_some(())
    });
    let all = ["/seen", "/nowhere", "/unseen"];
    for name in all {
        assert_stays_registered(&mut peer, name, FIVE_PROBE_INTERVALS);
    }
    for publisher in &publishers {
        publisher.signal(Signal::STOP);
    }
    // A probe of a stopped publisher takes a second, since it sends no greeting.
    for name in all {
        assert_stays_registered(&mut peer, name, Duration::from_secs(1));
    }
    assert_eq!(register(&mut peer, "/seen", "thief"), DiscoveryStatus::AlreadyExists);
    for publisher in &publishers {
        publisher.signal(Signal::CONT);
    }
    for name in all {
        assert_stays_registered(&mut peer, name, FIVE_PROBE_INTERVALS);
    }
}

#[test]
fn a_child_that_inherits_the_socket_without_serving_it_keeps_no_topic() {
    let daemon = Daemon::start();
    let mut peer = daemon.raw_peer();
    let mut host = PublisherHost::start(daemon.address());
    let delays = (0..5).map(|number| {
        let address = ipc_address(&daemon.test_dir().path(&format!("data-{number}.sock")));
        let publisher = host.start_publisher_with(&PublisherSpec {
            node: "node",
            address: &address,
            topics: &["/held".to_owned()],
            endpoint: Endpoint::SilentChild,
            disconnects: false,
        });
        publisher.assert_registered();
        publisher.kill();
        let killed = Instant::now();
        assert_eq!(register(&mut peer, "/held", "another"), DiscoveryStatus::Ok);
        let delay = killed.elapsed();
        let unregister = DiscoveryRequest::unregister("/held");
        assert_eq!(peer.request(&unregister).unwrap().status, DiscoveryStatus::Ok);
        delay
    });
    report_measurement(&format!(
        "another node got the name of a dead owner whose child holds the socket: {}",
        median_and_slowest(delays.collect())
    ));
    let log_line = eviction_log_line(&daemon, "/held");
    assert!(log_line.contains("owner exited"), "{log_line}");
}

#[test]
fn a_child_that_serves_the_endpoint_keeps_the_topic_until_it_exits() {
    let daemon = daemon_with_fast_probes().start();
    let mut peer = daemon.raw_peer();
    let mut host = PublisherHost::start(daemon.address());
    let address = ipc_address(&daemon.test_dir().path("data.sock"));
    let topics = ["/served".to_owned()];
    let endpoint = Endpoint::ServingChild;
    let spec = PublisherSpec {
        node: "node",
        address: &address,
        topics: &topics,
        endpoint,
        disconnects: false,
    };
    let publisher = host.start_publisher_with(&spec);
    publisher.assert_registered();
    publisher.signal(Signal::KILL);
    eventually("the topic is orphaned", TIMEOUT, || {
        (entry(&mut peer, "/served").endpoint == EndpointState::Orphaned).then_some(())
    });
    assert_stays_registered(&mut peer, "/served", Duration::from_secs(2));
    assert_eq!(entry(&mut peer, "/served").endpoint, EndpointState::Orphaned);
    assert_eq!(
        register(&mut peer, "/served", "another"),
        DiscoveryStatus::AlreadyExists,
        "the child still serves the endpoint"
    );
    // The child ends with its host.
    drop(host);
    let delay = wait_until_evicted(&mut peer, "/served", Instant::now());
    report_measurement(&format!("evicted {delay:?} after the exit of the child"));
}

#[test]
fn the_topic_of_an_unseen_publisher_is_evicted_after_two_probes() {
    let daemon = daemon_with_fast_probes().with_tcp().start();
    let [_, tcp] = daemon.addresses() else { panic!("two addresses") };
    let mut peer = daemon.raw_peer();
    let mut host = PublisherHost::start(tcp);
    let address = ipc_address(&daemon.test_dir().path("data.sock"));
    let publisher = host.start_publisher("node", &address, &["/unseen"]);
    publisher.assert_registered();
    eventually("the daemon judges the publisher alive", TIMEOUT, || {
        let entry = entry(&mut peer, "/unseen");
        assert_eq!((entry.uid, entry.pid), (None, None));
        (entry.endpoint == EndpointState::Alive).then_some(())
    });
    publisher.signal(Signal::KILL);
    let delay = wait_until_evicted(&mut peer, "/unseen", Instant::now());
    report_measurement(&format!("the topic of an unseen publisher was evicted after {delay:?}"));
    let log_line = eviction_log_line(&daemon, "/unseen");
    assert!(log_line.contains("endpoint dead"), "{log_line}");
}

#[test]
fn endpoints_that_do_not_accept_delay_no_request_and_evict_no_topic() {
    let daemon = daemon_with_fast_probes().with_tcp().start();
    let [_, tcp] = daemon.addresses() else { panic!("two addresses") };
    let mut peer = daemon.raw_peer();
    let mut host = PublisherHost::start(tcp);
    let topics: Vec<_> = (0..20).map(|number| format!("/hanging/{number}")).collect();
    let endpoint = Endpoint::FullBacklog;
    let spec =
        PublisherSpec { node: "node", address: "", topics: &topics, endpoint, disconnects: false };
    let publisher = host.start_publisher_with(&spec);
    publisher.assert_registered();
    let mut slowest = Duration::ZERO;
    // Longer than the time limit of a probe, which is a second.
    let end = Instant::now() + Duration::from_millis(2_500);
    while Instant::now() < end {
        let sent = Instant::now();
        peer.ping().unwrap();
        slowest = slowest.max(sent.elapsed());
    }
    report_measurement(&format!("the slowest PING during stalled probes: {slowest:?}"));
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    // The full backlog of a process of this machine shows that it listens.
    assert_eq!(entry(&mut peer, "/hanging/0").endpoint, EndpointState::Alive);
    let list = peer.request(&DiscoveryRequest::list()).unwrap();
    assert_eq!(topic_names(&list), topics);
    publisher.signal(Signal::KILL);
}
