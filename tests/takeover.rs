//! Two processes that advertise one topic: during a rolling restart, and by mistake.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cortex_client::{
    Advertisement, AsyncDiscoveryClient, DiscoveryClient, Error, EventKind, WatchEvent,
};
use cortex_tests::clients::block_on;
use cortex_tests::conformance::client;
use cortex_tests::daemon::Daemon;
use cortex_tests::deadline::{TIMEOUT, eventually};
use cortex_tests::messages::{topic, topic_at};
use cortex_tests::process::Process;
use cortex_tests::python::ReferenceDaemon;
use cortex_tests::report_measurement;
use cortex_tests::test_dir::TestDir;
use rustix::process::Signal;

fn start_node(address: &str) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_advertiser"));
    command.args([address, "node", "1"]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let process = Process::spawn(command);
    process.stdout_line("it is registered", |line| (line == "registered").then_some(()));
    process
}

fn wait_registered(advertisement: &Advertisement) {
    advertisement.wait_registered(TIMEOUT).unwrap();
}

#[test]
fn a_rolling_restart_keeps_the_topic_registered_throughout() {
    let daemon = Daemon::start();
    let client = client(daemon.address());
    let mut watch = client.watch(None).unwrap();
    let mut old = start_node(daemon.address());
    for _ in 0..3 {
        let mut new = start_node(daemon.address());
        let told = "trouble: another process of node node has taken over topic /node/0";
        old.stdout_line("the old process hears of it", |line| (line == told).then_some(()));
        old.close_stdin();
        assert_eq!(old.wait().code, Some(0));
        new.assert_running();
        old = new;
    }
    let entry = client.describe("/node/0").unwrap().entry.unwrap();
    assert_eq!(entry.pid, Some(old.pid().as_raw_nonzero().get().try_into().unwrap()));
    while let Some(event) = watch.next_within(Duration::ZERO).unwrap() {
        if let WatchEvent::Changed(change) = event {
            assert!(
                matches!(change.kind, EventKind::Registered | EventKind::Updated),
                "{change:?}: the topic was gone"
            );
        }
    }
}

/// Two clients that advertise one topic with different endpoints.
fn check_that_the_earlier_advertiser_yields(address: &str) {
    let (first, second) = (client(address), client(address));
    let info = |number| topic_at("/x", "node", &format!("ipc:///run/nodes/{number}.sock"));
    let earlier = first.advertise(info(1)).unwrap();
    wait_registered(&earlier);
    let later = second.advertise(info(2)).unwrap();
    wait_registered(&later);
    let superseded = Error::Superseded { topic: "/x".into(), node: "node".into() };
    eventually("the earlier one hears of it", TIMEOUT, || {
        let entry = first.lookup_topic("/x").unwrap();
        assert_eq!(entry, info(2), "it is never overwritten");
        (earlier.trouble().as_ref() == Some(&superseded)).then_some(())
    });
    assert!(!earlier.is_registered());
    assert!(later.is_registered());
    assert_eq!(later.unregister(), Ok(()));
    wait_registered(&earlier);
    assert_eq!(first.lookup_topic("/x"), Ok(info(1)));
    assert_eq!(earlier.trouble(), None);
}

#[test]
fn the_earlier_of_two_advertisers_yields_until_the_later_one_ends() {
    check_that_the_earlier_advertiser_yields(Daemon::start().address());
}

#[test]
fn the_earlier_of_two_advertisers_yields_at_the_reference_daemon() {
    let daemon = ReferenceDaemon::start(&TestDir::new());
    check_that_the_earlier_advertiser_yields(&daemon.address());
}

#[test]
fn a_node_that_closes_its_client_leaves_nothing_at_the_reference_daemon() {
    let daemon = ReferenceDaemon::start(&TestDir::new());
    let observer = client(&daemon.address());
    for round in 0..20 {
        let node = AsyncDiscoveryClient::connect(daemon.address()).unwrap();
        let guards: Vec<_> = (0..3)
            .map(|number| node.advertise(topic(&format!("/{round}/{number}"), "node")).unwrap())
            .collect();
        for guard in &guards {
            block_on(guard.registered()).unwrap();
        }
        assert_eq!(block_on(node.close()), Ok(()));
        assert_eq!(observer.list_topics(), Ok(Vec::new()), "round {round}");
        drop(guards);

        let blocking = client(&daemon.address());
        let guard = blocking.advertise(topic("/blocking", "node")).unwrap();
        wait_registered(&guard);
        assert_eq!(blocking.close(), Ok(()));
        assert_eq!(observer.list_topics(), Ok(Vec::new()), "round {round}");
    }
}

#[test]
fn dropping_an_asynchronous_guard_withdraws_its_topic_from_the_reference_daemon() {
    let daemon = ReferenceDaemon::start(&TestDir::new());
    let observer = client(&daemon.address());
    let node = AsyncDiscoveryClient::connect(daemon.address()).unwrap();
    let guard = node.advertise(topic("/x", "node")).unwrap();
    block_on(guard.registered()).unwrap();
    drop((guard, node));
    eventually("the topic is withdrawn", TIMEOUT, || {
        observer.list_topics().unwrap().is_empty().then_some(())
    });
}

#[test]
fn guards_that_are_dropped_at_a_stopped_daemon_wait_once() {
    for close in [false, true] {
        let daemon = Daemon::start();
        let client = DiscoveryClient::connect(daemon.address()).unwrap();
        let guards: Vec<_> = (0..20)
            .map(|number| client.advertise(topic(&format!("/{number}"), "node")).unwrap())
            .collect();
        guards.iter().for_each(wait_registered);
        daemon.signal(Signal::STOP);
        let began = Instant::now();
        if close {
            assert!(matches!(client.close(), Err(Error::NoAnswer { .. })));
        }
        drop(guards);
        drop(client);
        let took = began.elapsed();
        report_measurement(&format!("20 guards at a stopped daemon took {took:?}"));
        // One second each would be 20 s.
        assert!(took < Duration::from_secs(10), "{took:?}");
        daemon.signal(Signal::CONT);
    }
}
