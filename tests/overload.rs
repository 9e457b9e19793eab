//! More concurrent peers than usual, or more than the daemon has descriptors for.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Barrier;
use std::thread;

use cortex_proto::{DiscoveryRequest, DiscoveryStatus, RequestExt, TopicInfo};
use cortex_tests::daemon::{Daemon, DaemonBuilder};
use cortex_tests::deadline::{TIMEOUT, eventually};
use cortex_tests::messages::{register_static, topic, topic_names};
use cortex_tests::process::Process;
use cortex_tests::raw_peer::{self, RawPeer};
use cortex_tests::test_dir::TestDir;
use cortex_tests::zmq_peer::ZmqPeer;
use cortex_tests::{descriptors, python, report_measurement};
use rustix::process::{Resource, Signal, getrlimit};

#[test]
fn two_hundred_concurrent_clients_each_get_their_own_replies() {
    const CLIENTS: usize = 200;
    descriptors::raise_limit();
    let daemon = Daemon::start();
    let all_connected = Barrier::new(CLIENTS);
    let all_registered = Barrier::new(CLIENTS);
    let context = zmq::Context::new();
    let client = |number: usize| {
        let peer = ZmqPeer::in_context(&context, daemon.address(), zmq::REQ, |_| Ok(()));
        let mine = topic(&format!("/client/{number}"), &format!("node_{number}"));
        assert_eq!(peer.request(&DiscoveryRequest::ping()).message, "pong");
        all_connected.wait();
        let status = peer.request(&DiscoveryRequest::register(mine.clone())).status;
        assert_eq!(status, DiscoveryStatus::Ok);
        for _ in 0..10 {
            let found = peer.request(&DiscoveryRequest::lookup(mine.name.as_str()));
            assert_eq!(found.topic_info.as_ref(), Some(&mine));
        }
        all_registered.wait();
        assert_eq!(topic_names(&peer.request(&DiscoveryRequest::list())).len(), CLIENTS);
    };
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let client = &client;
            scope.spawn(move || client(number));
        }
    });
}

/// Each peer has its own reply of several MB and reads nothing of it.
#[test]
fn unread_replies_of_all_peers_together_are_bounded() {
    const TOPICS: usize = 3000;
    const MAX_KIB: u64 = 256 * 1024;
    let daemon =
        DaemonBuilder::at(&TestDir::new()).log_level(Some("info")).args(["--no-state"]).start();
    let mut peer = daemon.raw_peer();
    for number in 0..TOPICS {
        let long = "x".repeat(1000);
        let (address, message_type) = (long.clone(), long);
        let info = TopicInfo { address, message_type, ..topic(&format!("/{number}"), "node") };
        let reply = peer.request(&register_static(info)).unwrap();
        assert_eq!(reply.status, DiscoveryStatus::Ok);
    }
    let before = daemon.memory_kib().0;
    let describe = DiscoveryRequest::list().with_ext(RequestExt::default()).to_bytes();
    let mut stalled: Vec<_> = (0..60).map(|_| daemon.raw_peer()).collect();
    for one in &mut stalled {
        one.send(&raw_peer::request_message(&describe)).unwrap();
    }
    daemon
        .process()
        .stderr_line("the daemon closes the peers with the most unread bytes", |line| {
            line.contains("of replies unread").then_some(())
        });
    eventually("the daemon has received all requests", TIMEOUT, || {
        let requests = peer.request(&DiscoveryRequest::stats()).unwrap().ext?.counts["requests"];
        (requests >= (TOPICS + stalled.len()) as u64).then_some(())
    });
    let growth = daemon.memory_kib().1 - before;
    report_measurement(&format!("unread replies of 60 peers take {growth} KiB at most"));
    assert!(growth < MAX_KIB * 3 / 2, "{growth} KiB");
    peer.ping().unwrap();
}

#[test]
fn the_daemon_survives_12000_connections_beyond_a_limit_of_4096() {
    check_service_during_flood(DaemonBuilder::at(&TestDir::new()), 4096, 12_000);
}

#[test]
fn the_daemon_survives_300_connections_beyond_a_limit_of_64() {
    check_service_during_flood(DaemonBuilder::at(&TestDir::new()), 64, 300);
}

#[test]
fn the_daemon_survives_300_tcp_connections_beyond_a_limit_of_64() {
    check_service_during_flood(
        DaemonBuilder::at_address(&TestDir::new(), "tcp://127.0.0.1:0"),
        64,
        300,
    );
}

#[test]
fn clients_beyond_the_limit_are_served_when_others_disconnect() {
    descriptors::raise_limit();
    let daemon = DaemonBuilder::at(&TestDir::new()).shell_prelude("ulimit -n 64").start();
    let context = zmq::Context::new();
    let request = DiscoveryRequest::ping().to_bytes();
    let mut waiting: Vec<_> = (0..300)
        .map(|_| {
            let peer = ZmqPeer::in_context(&context, daemon.address(), zmq::REQ, |_| Ok(()));
            peer.socket().send(&request, 0).unwrap();
            peer
        })
        .collect();
    // Each client that has its reply disconnects, and another one can then connect.
    eventually("every client has its reply", TIMEOUT, || {
        waiting.retain(|peer| !peer.receives_within(0));
        waiting.is_empty().then_some(())
    });
}

#[test]
fn of_many_nodes_that_register_the_same_topic_one_succeeds() {
    let daemon = Daemon::start();
    let start = Barrier::new(50);
    let status = |number: usize| {
        let peer = ZmqPeer::req(daemon.address());
        start.wait();
        let mine = topic("/wanted", &format!("node_{number}"));
        peer.request(&DiscoveryRequest::register(mine)).status
    };
    let statuses: Vec<_> = thread::scope(|scope| {
        let status = &status;
        let nodes: Vec<_> = (0..50).map(|number| scope.spawn(move || status(number))).collect();
        nodes.into_iter().map(|node| node.join().unwrap()).collect()
    });
    let count = |wanted| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!((count(DiscoveryStatus::Ok), count(DiscoveryStatus::AlreadyExists)), (1, 49));
}

/// Checks that clients that connected before a flood of connections are served during it, and new
/// clients after it.
fn check_service_during_flood(builder: DaemonBuilder, descriptors: u64, connections: u64) {
    let daemon =
        builder.log_level(Some("info")).shell_prelude(&format!("ulimit -n {descriptors}")).start();
    let address = daemon.address();
    let mut raw = RawPeer::open(address).unwrap();
    let zmq = ZmqPeer::req(address);
    let mut assert_served = || {
        raw.ping().unwrap();
        assert_eq!(zmq.request(&DiscoveryRequest::ping()).message, "pong");
    };
    assert_served();

    let mut flood = open_connections(&daemon, connections);
    let opened: u64 = eventually("all connections are open", TIMEOUT, || {
        assert_served();
        flood
            .iter_mut()
            .map(|process| {
                process.assert_running();
                process.stdout_so_far().trim().parse::<u64>().ok()
            })
            .sum()
    });
    assert_eq!(opened, connections);
    for _ in 0..100 {
        assert_served();
    }

    for process in &mut flood {
        process.close_stdin();
    }
    for process in flood {
        assert_eq!(process.wait().code, Some(0));
        assert_served();
    }
    let new = ZmqPeer::req(address);
    assert_eq!(new.request(&DiscoveryRequest::ping()).message, "pong");
    eventually("a new connection is accepted", TIMEOUT, || raw_peer::ping(address).ok());
    assert_served();

    daemon.signal(Signal::TERM);
    let output = daemon.wait();
    assert_eq!(output.code, Some(0), "{}", output.stderr);
}

/// Opens `connections` connections in as many processes as the limit of open files requires.
fn open_connections(daemon: &Daemon, connections: u64) -> Vec<Process> {
    // Python needs some descriptors for itself.
    let connections_per_process =
        getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX).saturating_sub(50).max(1);
    let processes = connections.div_ceil(connections_per_process).max(2);
    (0..processes)
        .map(|number| {
            let share = connections / processes + u64::from(number < connections % processes);
            python::spawn("open_connections.py", &[daemon.address(), &share.to_string()])
        })
        .collect()
}
