//! Our client and command line with a Python daemon that behaves as the reference.

use cortex_client::{DaemonInfo, Error};
use cortex_tests::conformance::{check_every_client_call, check_every_command, client};
use cortex_tests::messages::topic;
use cortex_tests::python::ReferenceDaemon;
use cortex_tests::test_dir::TestDir;
use cortex_tests::transcript::{exchanges, status};
use cortex_tests::zmq_peer::ZmqPeer;

#[test]
fn the_reference_daemon_answers_as_recorded() {
    let daemon = ReferenceDaemon::start(&TestDir::new());
    let peer = ZmqPeer::req(&daemon.address());
    for exchange in exchanges() {
        let reply = peer.request_bytes(&exchange.request);
        if exchange.is_exact() {
            exchange.check(&reply);
        } else {
            assert_eq!(status(&reply), status(&exchange.reply), "{}", exchange.label);
        }
    }
}

#[test]
fn our_client_works_with_the_reference_daemon() {
    let daemon = ReferenceDaemon::start(&TestDir::new());
    check_every_client_call(&daemon.address());
    assert_eq!(daemon.wait().code, Some(0));
}

#[test]
fn the_reference_daemon_has_no_extensions() {
    let daemon = ReferenceDaemon::start(&TestDir::new());
    let client = client(&daemon.address());
    client.register_topic(&topic("/a", "node")).unwrap();
    assert_eq!(client.hello(), Ok(DaemonInfo::default()));
    let described = client.describe("/a").unwrap();
    assert_eq!((described.info, described.entry), (topic("/a", "node"), None));
    assert_eq!(client.describe_all().unwrap().len(), 1);
    let Err(unsupported @ Error::Unsupported { .. }) = client.stats() else {
        panic!("the reference daemon has no statistics");
    };
    let expected = "the daemon does not know STATS: it speaks no extensions of the protocol";
    assert_eq!(unsupported.to_string(), expected);
}

#[test]
fn our_command_line_works_with_the_reference_daemon() {
    let daemon = ReferenceDaemon::start(&TestDir::new());
    check_every_command(&daemon.address());
    assert_eq!(daemon.wait().code, Some(0));
}
