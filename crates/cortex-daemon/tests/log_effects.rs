//! What the registry reports for the log: names that two nodes want, and names that nobody has.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{REMOTE, World, info, local};
use cortex_daemon::peer::ConnectionId;
use cortex_daemon::registry::{Miss, NameConflict};
use cortex_proto::{DiscoveryRequest, DiscoveryStatus, TopicName};

#[test]
fn a_name_that_another_node_owns_is_reported_with_both() {
    let mut world = World::new();
    world.call(local(1, 10), DiscoveryRequest::register(info("/a", "first")));
    world.call(local(1, 10), DiscoveryRequest::register(info("/a", "first")));
    assert_eq!(world.conflicts, []);
    for (peer, disk_is_full) in [(local(2, 11), false), (REMOTE, true)] {
        world.disk_is_full = disk_is_full;
        let reply = world.call(peer, DiscoveryRequest::register(info("/a", "second")));
        assert_eq!(reply.status, DiscoveryStatus::AlreadyExists);
        let conflict = NameConflict {
            topic: TopicName::new("/a").unwrap(),
            owner_node: "first".into(),
            owner: local(1, 10),
            node: "second".into(),
            peer,
        };
        assert_eq!(std::mem::take(&mut world.conflicts), [conflict]);
    }
}

#[test]
fn a_lookup_or_wait_without_success_is_reported_with_its_connection() {
    let mut world = World::new();
    world.call(REMOTE, DiscoveryRequest::register(info("/a", "node")));
    world.call(REMOTE, DiscoveryRequest::lookup("/a"));
    world.call(REMOTE, DiscoveryRequest::wait("/a", 1000));
    world.call(REMOTE, DiscoveryRequest::unregister("/missing"));
    assert_eq!(world.missed, [], "an UNREGISTER looks for nothing");
    let numbers = [
        world.send(REMOTE, DiscoveryRequest::lookup("/missing")),
        world.send(REMOTE, DiscoveryRequest::wait("/missing", 0)),
        world.send(REMOTE, DiscoveryRequest::wait("/missing", 1000)),
    ];
    assert_eq!(world.missed.len(), 2, "the last one still waits");
    world.advance(1);
    let miss = |number| Miss { connection: ConnectionId(number), topic: "/missing".into() };
    assert_eq!(world.missed, numbers.map(miss));
}
