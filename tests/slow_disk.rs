//! A state file on a disk that takes long for a write: only peers wait for it that change
//! something.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use cortex_proto::{DiscoveryRequest, DiscoveryStatus, TopicInfo};
use cortex_tests::daemon::Daemon;
use cortex_tests::deadline::{TIMEOUT, eventually};
use cortex_tests::messages::{decode_response, register_static, topic};
use cortex_tests::publisher_host::PublisherHost;
use cortex_tests::raw_peer::{RawPeer, request_message};
use cortex_tests::slow_disk::SlowDisk;
use cortex_tests::test_dir::TestDir;
use rustix::process::Signal;

/// More topics than the store takes between two writes to the disk.
const TOPICS: usize = 1500;

fn large_topic(number: usize) -> TopicInfo {
    let message_type = "t".repeat(1000);
    TopicInfo { message_type, ..topic(&format!("/large/{number}"), "node") }
}

/// Registers topics until the daemon waits for the disk. Returns the peer, which has no reply yet to
/// its last requests. It waits for no reply, also as a REQ socket.
fn register_until_held(daemon: &Daemon, disk: &SlowDisk, socket_type: &str) -> RawPeer {
    disk.hold();
    let mut peer = RawPeer::connect(daemon.address()).unwrap();
    peer.shake_hands(socket_type).unwrap();
    for number in 0..TOPICS {
        let request = register_static(large_topic(number)).to_bytes();
        peer.send(&request_message(&request)).unwrap();
    }
    disk.wait_until_held();
    peer
}

fn read_all_replies(mut peer: RawPeer) {
    for number in 0..TOPICS {
        let reply = decode_response(&peer.read_reply().unwrap());
        assert_eq!(reply.message, format!("Registered topic: /large/{number}"));
    }
}

#[test]
fn a_slow_write_delays_no_request_that_only_reads() {
    let test_dir = TestDir::new();
    let disk = SlowDisk::new(&test_dir);
    let daemon = disk.daemon_builder(&test_dir).start();
    let mut host = PublisherHost::start(daemon.address());
    let address = format!("ipc://{}", test_dir.path("camera.sock").display());
    let publisher = host.start_publisher("camera", &address, &["/camera"]);

    let busy = register_until_held(&daemon, &disk, "REQ");
    let mut peer = daemon.raw_peer();
    peer.ping().unwrap();
    let lookup = DiscoveryRequest::lookup("/camera");
    assert_eq!(peer.request(&lookup).unwrap().status, DiscoveryStatus::Ok);
    let listed = peer.request(&DiscoveryRequest::list()).unwrap().topics.len();
    assert!(listed < TOPICS, "a topic is listed when the state file has it");
    host.kill(&publisher);
    eventually("the dead publisher's topic is gone", TIMEOUT, || {
        (peer.request(&lookup).unwrap().status == DiscoveryStatus::NotFound).then_some(())
    });
    assert!(disk.is_holding(), "all that happened during one write");

    disk.release();
    read_all_replies(busy);
    assert_eq!(peer.request(&DiscoveryRequest::list()).unwrap().topics.len(), TOPICS);
    assert_eq!(peer.request(&lookup).unwrap().status, DiscoveryStatus::NotFound);
}

#[test]
fn a_daemon_that_is_stopped_during_a_write_loses_no_acknowledged_change() {
    let test_dir = TestDir::new();
    let disk = SlowDisk::new(&test_dir);
    let builder = disk.daemon_builder(&test_dir);
    let daemon = builder.start();
    let mut busy = register_until_held(&daemon, &disk, "DEALER");
    daemon.signal(Signal::TERM);
    daemon
        .process()
        .stderr_line("the daemon stops", |line| line.contains("asked to stop").then_some(()));
    disk.release();
    assert_eq!(daemon.wait().code, Some(0));

    let daemon = builder.start();
    let mut peer = daemon.raw_peer();
    let listed = peer.request(&DiscoveryRequest::list()).unwrap().topics;
    let mut acknowledged = 0;
    while let Ok(reply) = busy.read_reply() {
        let reply = decode_response(&reply);
        if reply.status == DiscoveryStatus::Ok {
            let name = large_topic(acknowledged).name;
            assert_eq!(reply.message, format!("Registered topic: {name}"));
            assert!(listed.iter().any(|topic| topic.name == name), "{name} is lost");
            acknowledged += 1;
        } else {
            assert!(reply.message.ends_with("the daemon is stopping"), "{}", reply.message);
        }
    }
    assert_eq!(listed.len(), acknowledged, "what is not acknowledged is not registered");
}
