//! Publishers and daemons in different pid namespaces.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;
use std::time::{Duration, Instant};

use cortex_proto::{DiscoveryRequest, DiscoveryStatus, EndpointState, EntryExt, RequestExt};
use cortex_tests::daemon::{Daemon, DaemonBuilder};
use cortex_tests::deadline::{TIMEOUT, eventually};
use cortex_tests::publisher_host::{Publisher, PublisherHost};
use cortex_tests::raw_peer::RawPeer;
use cortex_tests::test_dir::{TestDir, ipc_address};
use cortex_tests::{report_measurement, report_skipped};

/// Starts the daemon in a new pid namespace.
const IN_OWN_PID_NAMESPACE: &str =
    r#"exec unshare --pid --fork --kill-child --mount-proc "$0" "$@""#;

fn can_make_namespaces() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "true"]);
    let can = command.output().is_ok_and(|output| output.status.success());
    if !can {
        report_skipped("`unshare --pid --mount-proc` does not work here");
    }
    can
}

fn daemon_with_fast_probes(test_dir: &TestDir) -> DaemonBuilder {
    DaemonBuilder::at(test_dir).args(["--probe-interval", "100ms"])
}

fn entry(peer: &mut RawPeer, name: &str) -> Option<EntryExt> {
    let describe = DiscoveryRequest::lookup(name).with_ext(RequestExt::default());
    let response = peer.request(&describe).unwrap();
    assert_ne!(response.status, DiscoveryStatus::Error, "{}", response.message);
    response.ext.unwrap().entry
}

fn wait_until_alive(peer: &mut RawPeer, name: &str) -> EntryExt {
    eventually("the daemon judges the publisher alive", TIMEOUT, || {
        entry(peer, name).filter(|entry| entry.endpoint == EndpointState::Alive)
    })
}

fn wait_until_evicted(peer: &mut RawPeer, name: &str) -> Duration {
    let since = Instant::now();
    eventually("the daemon has evicted the topic", TIMEOUT, || {
        entry(peer, name).is_none().then_some(())
    });
    since.elapsed()
}

fn start_publisher(host: &mut PublisherHost, test_dir: &TestDir, name: &str) -> Publisher {
    let publisher =
        host.start_publisher("node", &ipc_address(&test_dir.path("data.sock")), &[name]);
    publisher.assert_registered();
    publisher
}

fn eviction_log_line(daemon: &Daemon, name: &str) -> String {
    daemon.process().stderr_line("the eviction", |line| {
        (line.contains("evicted") && line.contains(name)).then(|| line.to_owned())
    })
}

#[test]
fn a_publisher_with_an_unknown_pid_is_judged_by_probes() {
    if !can_make_namespaces() {
        return;
    }
    let test_dir = TestDir::new();
    let daemon = daemon_with_fast_probes(&test_dir).shell_prelude(IN_OWN_PID_NAMESPACE).start();
    let mut peer = daemon.raw_peer();
    let mut host = PublisherHost::start(daemon.address());
    for _ in 0..3 {
        let publisher = start_publisher(&mut host, &test_dir, "/hidden");
        assert_eq!(wait_until_alive(&mut peer, "/hidden").pid, None);
        publisher.kill();
        let delay = wait_until_evicted(&mut peer, "/hidden");
        report_measurement(&format!("evicted {delay:?} after the kill"));
        // The second probe follows one interval after the first.
        assert!(delay > Duration::from_millis(90), "{delay:?}");
        assert!(eviction_log_line(&daemon, "/hidden").contains("endpoint dead"));
    }
}

#[test]
fn the_daemon_watches_publishers_in_nested_pid_namespaces() {
    if !can_make_namespaces() {
        return;
    }
    let test_dir = TestDir::new();
    let daemon = daemon_with_fast_probes(&test_dir).start();
    let mut peer = daemon.raw_peer();
    let mut host = PublisherHost::start_in_own_pid_namespace(daemon.address());
    let publisher = start_publisher(&mut host, &test_dir, "/inside");
    let before = entry(&mut peer, "/inside").unwrap();
    assert!(before.pid.is_some(), "{before:?}");
    host.kill(&publisher);
    let delay = wait_until_evicted(&mut peer, "/inside");
    report_measurement(&format!("evicted {delay:?} after the kill"));
    assert!(eviction_log_line(&daemon, "/inside").contains("owner exited"));
}

#[test]
fn topics_survive_a_move_of_the_daemon_to_another_pid_namespace() {
    if !can_make_namespaces() {
        return;
    }
    let test_dir = TestDir::new();
    let daemon = daemon_with_fast_probes(&test_dir).start();
    let mut host = PublisherHost::start(daemon.address());
    let publisher = start_publisher(&mut host, &test_dir, "/moved");
    let before = entry(&mut daemon.raw_peer(), "/moved").unwrap();
    assert!(before.pid.is_some(), "{before:?}");
    assert_eq!(daemon.kill().signal, Some(9));

    let daemon = daemon_with_fast_probes(&test_dir).shell_prelude(IN_OWN_PID_NAMESPACE).start();
    let mut peer = daemon.raw_peer();
    let after = wait_until_alive(&mut peer, "/moved");
    assert_eq!((after.pid, after.revision), (None, before.revision));
    publisher.kill();
    let delay = wait_until_evicted(&mut peer, "/moved");
    report_measurement(&format!("evicted {delay:?} after the kill"));
    assert!(eviction_log_line(&daemon, "/moved").contains("endpoint dead"));
}
