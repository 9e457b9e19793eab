//! Publishers in other networks than the daemon: containers, and hosts that lose their power.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;
use std::time::{Duration, Instant};

use cortex_proto::{DiscoveryRequest, DiscoveryStatus, EndpointState, EntryExt, RequestExt};
use cortex_tests::daemon::{Daemon, DaemonBuilder};
use cortex_tests::deadline::{TIMEOUT, eventually};
use cortex_tests::messages::topic_at;
use cortex_tests::network::{self, IN_OWN_NETWORK, Network};
use cortex_tests::publisher_host::PublisherHost;
use cortex_tests::raw_peer::RawPeer;
use cortex_tests::test_dir::TestDir;
use cortex_tests::{report_measurement, report_skipped};

const IN_OWN_PID_NAMESPACE: &str =
    r#"exec unshare --pid --fork --kill-child --mount-proc "$0" "$@""#;
/// In each container the same address. It leads to that container's own publisher.
const IN_EACH_CONTAINER: &str = "tcp://127.0.0.1:5555";
/// A host without an answer is unreachable after 30 s.
const MIN_UNREACHABLE_AFTER: Duration = Duration::from_secs(29);
const MAX_UNREACHABLE_AFTER: Duration = Duration::from_secs(90);

fn entry(peer: &mut RawPeer, name: &str) -> Option<EntryExt> {
    let describe = DiscoveryRequest::lookup(name).with_ext(RequestExt::default());
    let response = peer.request(&describe).unwrap();
    assert_ne!(response.status, DiscoveryStatus::Error, "{}", response.message);
    response.ext.unwrap().entry
}

fn is_listed(peer: &mut RawPeer, name: &str) -> bool {
    entry(peer, name).is_some()
}

fn assert_stays_listed(peer: &mut RawPeer, name: &str, duration: Duration) {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        assert!(is_listed(peer, name), "{name} is evicted");
        assert_eq!(peer.read_within(Duration::from_millis(10)).unwrap(), Some(Vec::new()));
    }
}

fn can_make_containers() -> bool {
    let options = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let mut command = Command::new("unshare");
    command.args(options).args(["sh", "-c", "ip link set lo up"]);
    let can = command.output().is_ok_and(|output| output.status.success());
    if !can {
        report_skipped("`unshare --net --pid --mount-proc` or `ip link` does not work here");
    }
    can
}

/// Two containers, each with a publisher at its own 127.0.0.1:5555. One ends.
#[test]
fn the_end_of_a_container_evicts_no_topic_of_another_one_at_the_same_address() {
    if !can_make_containers() {
        return;
    }
    for sees_processes in [true, false] {
        let test_dir = TestDir::new();
        let mut builder = DaemonBuilder::at(&test_dir).args(["--probe-interval", "100ms"]);
        if !sees_processes {
            builder = builder.shell_prelude(IN_OWN_PID_NAMESPACE);
        }
        let daemon = builder.start();
        let mut peer = daemon.raw_peer();
        let mut containers: Vec<_> = ["/first", "/second"]
            .into_iter()
            .map(|name| {
                let mut host = PublisherHost::start_in_own_network_namespace(daemon.address());
                let publisher = host.start_publisher("node", IN_EACH_CONTAINER, &[name]);
                publisher.assert_registered();
                (host, publisher)
            })
            .collect();
        let (first_host, first) = containers.remove(0);
        first.kill();
        drop(first_host);
        if sees_processes {
            eventually("the first topic is gone", TIMEOUT, || {
                (!is_listed(&mut peer, "/first")).then_some(())
            });
        }
        assert_stays_listed(&mut peer, "/second", Duration::from_secs(1));
        let other = topic_at("/second", "another node", IN_EACH_CONTAINER);
        let refused = peer.request(&DiscoveryRequest::register(other)).unwrap();
        assert_eq!(refused.status, DiscoveryStatus::AlreadyExists, "{}", refused.message);
        assert_eq!(daemon.kill().signal, Some(9));
        let daemon = builder.start();
        assert_stays_listed(&mut daemon.raw_peer(), "/second", Duration::from_secs(1));
        drop(containers);
    }
}

fn daemon_with_cable(test_dir: &TestDir) -> Daemon {
    DaemonBuilder::at(test_dir)
        .shell_prelude(IN_OWN_NETWORK)
        .args(["--address", network::DAEMON, "--probe-interval", "1s"])
        .start()
}

#[test]
fn a_host_without_power_is_unreachable_after_30_seconds_and_alive_when_it_is_back() {
    if !network::can_make() {
        return;
    }
    let test_dir = TestDir::new();
    let daemon = daemon_with_cable(&test_dir);
    let host = Network::at_the_other_end(daemon.process());
    let mut peer = daemon.raw_peer();
    let mut publishers = PublisherHost::start_in(&host, network::DAEMON);
    let address = format!("tcp://{}:5555", network::OTHER_HOST);
    publishers.start_publisher("robot", &address, &["/taken", "/back"]).assert_registered();
    let wait_for = |peer: &mut RawPeer, state: EndpointState| {
        let start = Instant::now();
        eventually(&format!("{state:?}"), MAX_UNREACHABLE_AFTER, || {
            (entry(peer, "/back")?.endpoint == state).then_some(())
        });
        start.elapsed()
    };
    wait_for(&mut peer, EndpointState::Alive);

    host.run("ip link set cut1 down");
    let elapsed = wait_for(&mut peer, EndpointState::Unreachable);
    report_measurement(&format!("a host without power was unreachable after {elapsed:?}"));
    assert!(elapsed >= MIN_UNREACHABLE_AFTER, "{elapsed:?}");
    assert!(is_listed(&mut peer, "/taken"), "ZeroMQ connects again when the host is back");
    let mut register = |name| {
        let info = topic_at(name, "another robot", "ipc:///nowhere/at/all.sock");
        peer.request(&DiscoveryRequest::register(info)).unwrap().status
    };
    assert_eq!(register("/taken"), DiscoveryStatus::Ok, "the name is free");

    host.run("ip link set cut1 up");
    wait_for(&mut peer, EndpointState::Alive);
    let info = topic_at("/back", "another robot", "ipc:///nowhere/at/all.sock");
    let refused = peer.request(&DiscoveryRequest::register(info)).unwrap();
    assert_eq!(refused.status, DiscoveryStatus::AlreadyExists, "{}", refused.message);
}
