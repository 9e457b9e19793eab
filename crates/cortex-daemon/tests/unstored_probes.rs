//! Probes and their schedules when the store cannot keep a batch.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{PUBLISHER, World, info, local};
use cortex_proto::{DiscoveryRequest, DiscoveryStatus};

/// The time from a registration to the probe that records the listener.
const RECORD_DELAY_MS: u64 = 3;

fn register(world: &mut World, name: &str) {
    let reply = world.call(local(1, 10), DiscoveryRequest::register(info(name, "node")));
    assert_eq!(reply.status, DiscoveryStatus::Ok, "{reply:?}");
}

#[test]
fn a_listener_that_could_not_be_stored_is_recorded_after_a_second() {
    let mut world = World::new();
    register(&mut world, "/a");
    let name = info("/a", "node").name;
    world.disk_is_full = true;
    world.advance_ms(RECORD_DELAY_MS);
    assert_eq!(world.stored[&name].listener, None, "the probe has come too early");
    world.disk_is_full = false;
    world.advance_ms(999 + RECORD_DELAY_MS);
    assert_eq!(world.stored[&name].listener, None);
    world.advance_ms(1);
    assert_eq!(world.stored[&name].listener, Some(PUBLISHER));
}

#[test]
fn a_change_that_could_not_be_stored_delays_no_probe() {
    let mut world = World::new();
    register(&mut world, "/a");
    let due = world.now.instant + Duration::from_millis(RECORD_DELAY_MS);
    assert_eq!(world.registry.next_check(), Some(due));
    world.disk_is_full = true;
    let refused = world.call(local(1, 10), DiscoveryRequest::unregister("/a"));
    assert_eq!(refused.status, DiscoveryStatus::Error);
    assert_eq!(world.registry.next_check(), Some(due));
}
