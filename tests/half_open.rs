//! TCP connections whose peers are behind a cut cable, or stand still.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use cortex_proto::DiscoveryRequest;
use cortex_tests::daemon::{Daemon, DaemonBuilder};
use cortex_tests::deadline::eventually;
use cortex_tests::messages::{decode_response, register_static, topic, topic_at};
use cortex_tests::network::{self, IN_OWN_NETWORK, Network, connect_from};
use cortex_tests::raw_peer::{self, RawPeer};
use cortex_tests::report_measurement;
use cortex_tests::test_dir::TestDir;

/// The requirement for all slots to be free.
const MAX_SLOT_TIME: Duration = Duration::from_secs(60);

fn connections(peer: &mut RawPeer) -> u64 {
    let stats = peer.request(&DiscoveryRequest::stats()).unwrap();
    stats.ext.unwrap().counts["connections"]
}

/// Their replies take more bytes than the kernel's buffers.
const LISTS: usize = 40;
const LONG_TOPICS: usize = 1000;

fn many_lists() -> Vec<u8> {
    raw_peer::request_message(&DiscoveryRequest::list().to_bytes()).repeat(LISTS)
}

/// Reads the replies to [`many_lists`], each with all topics of [`register_long_topics`].
fn read_many_lists(peer: &mut RawPeer) {
    for _ in 0..LISTS {
        let topics = decode_response(&peer.read_reply().unwrap()).topics;
        assert!(topics.len() >= LONG_TOPICS, "{} topics", topics.len());
    }
}

fn long_address() -> String {
    format!("ipc:///{}", "x".repeat(500))
}

fn register_long_topics(peer: &mut RawPeer) {
    for number in 0..LONG_TOPICS {
        let register = register_static(topic_at(&format!("/{number}"), "node", &long_address()));
        peer.request(&register).unwrap();
    }
}

#[test]
fn the_slots_of_peers_behind_a_cut_cable_are_free_within_a_minute() {
    if !network::can_make() {
        return;
    }
    let test_dir = TestDir::new();
    let daemon = DaemonBuilder::at(&test_dir)
        .shell_prelude(IN_OWN_NETWORK)
        .args(["--address", network::DAEMON, "--max-connections", "40"])
        .start();
    let network = Network::at_the_other_end(daemon.process());
    let mut local = daemon.raw_peer();
    // All TCP peers together get half of the connections.
    let mut idle = connect_from(daemon.process());
    let mut cut: Vec<_> = (0..19).map(|_| network.connect()).collect();
    for (number, peer) in cut.iter_mut().enumerate() {
        peer.ping().unwrap();
        // A third is idle, a third waits, and a third has a reply on its way after the cut.
        let name = match number % 3 {
            0 => continue,
            1 => "/never",
            _ => "/after",
        };
        let wait = DiscoveryRequest::wait(name, 20_000);
        peer.send(&raw_peer::request_message(&wait.to_bytes())).unwrap();
    }
    eventually("the requests are parked", MAX_SLOT_TIME, || {
        let counts = local.request(&DiscoveryRequest::stats()).unwrap().ext.unwrap().counts;
        (counts["waits"] == 12).then_some(())
    });
    assert_eq!(connections(&mut local), 21);

    network.run("ip link set cut1 down");
    let since = Instant::now();
    let register = register_static(topic("/after", "node"));
    assert_eq!(local.request(&register).unwrap().message, "Registered topic: /after");
    eventually("the slots are free", MAX_SLOT_TIME, || {
        (connections(&mut local) == 2).then_some(())
    });
    report_measurement(&format!("19 slots were free {:?} after the cut", since.elapsed()));

    network.run("ip link set cut1 up");
    let mut again: Vec<_> = (0..19).map(|_| network.connect()).collect();
    for peer in &mut again {
        peer.ping().unwrap();
    }
    idle.ping().expect("an idle connection to a living peer stays open");
}

#[test]
fn the_slots_of_blocked_peers_behind_a_cut_cable_are_free_within_a_minute() {
    const WAITS: usize = 600;
    if !network::can_make() {
        return;
    }
    let test_dir = TestDir::new();
    let daemon = DaemonBuilder::at(&test_dir)
        .shell_prelude(IN_OWN_NETWORK)
        .args(["--address", network::DAEMON])
        .start();
    let network = Network::at_the_other_end(daemon.process());
    let mut local = daemon.raw_peer();
    register_long_topics(&mut local);
    let mut stalled = connect_from(daemon.process());
    stalled.send(&many_lists()).unwrap();
    let mut cut: Vec<_> = (0..6).map(|_| network.connect()).collect();
    let (with_full_window, waiting) = cut.split_at_mut(3);
    for peer in with_full_window {
        peer.send(&many_lists()).unwrap();
    }
    let wait = raw_peer::request_message(&DiscoveryRequest::wait("/after", 60_000).to_bytes());
    for peer in waiting {
        peer.send(&wait.repeat(WAITS)).unwrap();
    }
    eventually("the windows are full, and the requests are parked", MAX_SLOT_TIME, || {
        let counts = local.request(&DiscoveryRequest::stats()).unwrap().ext.unwrap().counts;
        let is_ready = counts["waits"] == 3 * WAITS as u64 && full_windows(&daemon) == 4;
        is_ready.then_some(())
    });

    network.run("ip link set cut1 down");
    let since = Instant::now();
    // The replies to the parked requests fill the send buffers after the cut.
    local.request(&register_static(topic_at("/after", "node", &long_address()))).unwrap();
    eventually("the slots are free", MAX_SLOT_TIME, || {
        (connections(&mut local) == 2).then_some(())
    });
    report_measurement(&format!("6 slots were free {:?} after the cut", since.elapsed()));
    // The peer that is there has read nothing all the time.
    read_many_lists(&mut stalled);
}

/// The number of TCP connections in the daemon's network whose peers have full windows: the kernel
/// has a timer for zero-window probes.
fn full_windows(daemon: &Daemon) -> usize {
    let pid = daemon.process().pid().as_raw_nonzero();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    table.lines().filter(|row| row.contains(" 04:")).count()
}

#[test]
fn a_peer_that_reads_nothing_for_half_a_minute_gets_every_reply() {
    let daemon = Daemon::start_tcp();
    let mut publisher = daemon.raw_peer();
    register_long_topics(&mut publisher);
    let mut stalled = daemon.raw_peer();
    stalled.send(&many_lists()).unwrap();
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(35) {
        // The stalled peer's window is full, but its host answers.
        assert!(publisher.read_within(Duration::from_millis(500)).unwrap().is_some());
        publisher.ping().unwrap();
    }
    read_many_lists(&mut stalled);
}
