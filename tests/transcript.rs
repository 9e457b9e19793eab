//! Replays the recorded exchanges with the reference against our daemon.

use cortex_tests::daemon::Daemon;
use cortex_tests::raw_peer::RawPeer;
use cortex_tests::transcript::exchanges;
use cortex_tests::zmq_peer::ZmqPeer;

fn replay(mut request: impl FnMut(&[u8]) -> Vec<u8>) {
    let exchanges = exchanges();
    assert_eq!(exchanges.len(), 50, "the recording is incomplete");
    for exchange in exchanges {
        exchange.check(&request(&exchange.request));
    }
}

#[test]
fn the_daemon_answers_each_recorded_request_as_the_reference_did() {
    let daemon = Daemon::start();
    let peer = ZmqPeer::req(daemon.address());
    replay(|request| peer.request_bytes(request));
}

#[test]
fn the_daemon_answers_the_same_over_tcp() {
    let daemon = Daemon::start_tcp();
    let peer = ZmqPeer::req(daemon.address());
    replay(|request| peer.request_bytes(request));
}

#[test]
fn the_daemon_answers_the_same_over_a_new_connection_for_each_request() {
    let daemon = Daemon::start();
    replay(|request| {
        let mut peer = RawPeer::open(daemon.address()).expect("the handshake succeeds");
        peer.request_bytes(request).expect("the daemon answers")
    });
}
