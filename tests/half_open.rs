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
fn a_peer_that_reads_nothing_for_half_a_minute_gets_every_reply() {
    const LISTS: usize = 40;
    let daemon = Daemon::start_tcp();
    let mut publisher = daemon.raw_peer();
    for number in 0..1000 {
        let address = format!("ipc:///{}", "x".repeat(500));
        let register = register_static(topic_at(&format!("/{number}"), "node", &address));
        publisher.request(&register).unwrap();
    }
    let mut stalled = daemon.raw_peer();
    let list = raw_peer::request_message(&DiscoveryRequest::list().to_bytes());
    stalled.send(&list.repeat(LISTS)).unwrap();
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(35) {
        // The stalled peer's window is full, but its host answers.
        assert!(publisher.read_within(Duration::from_millis(500)).unwrap().is_some());
        publisher.ping().unwrap();
    }
    for _ in 0..LISTS {
        assert_eq!(decode_response(&stalled.read_reply().unwrap()).topics.len(), 1000);
    }
}
