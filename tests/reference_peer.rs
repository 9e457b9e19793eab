//! Our client and command line at a Python daemon of the reference's semantics.

use cortex_tests::conformance::{every_client_call, every_command};
use cortex_tests::daemon::Place;
use cortex_tests::peers::ZmqPeer;
use cortex_tests::python::ReferenceDaemon;
use cortex_tests::transcript::{status, steps};

#[test]
fn the_stand_in_answers_as_the_reference_was_recorded() {
    let daemon = ReferenceDaemon::start(&Place::new());
    let peer = ZmqPeer::req(&daemon.address());
    for step in steps() {
        let reply = peer.ask_bytes(&step.request);
        if step.is_exact() {
            step.check(&reply);
        } else {
            assert_eq!(status(&reply), status(&step.reply), "{}", step.label);
        }
    }
}

#[test]
fn our_client_works_with_the_reference() {
    let daemon = ReferenceDaemon::start(&Place::new());
    every_client_call(&daemon.address());
    assert_eq!(daemon.wait().code, Some(0));
}

#[test]
fn our_command_line_works_with_the_reference() {
    let daemon = ReferenceDaemon::start(&Place::new());
    every_command(&daemon.address());
    assert_eq!(daemon.wait().code, Some(0));
}
