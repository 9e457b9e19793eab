//! Ports that pass from one unseen node to the next, compared with a model that knows who lives.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use common::{PROBE_INTERVAL, REMOTE, World, info};
use cortex_daemon::peer::{EndpointListener, PeerIdentity};
use cortex_daemon::registry::ProbeResult;
use cortex_proto::{DiscoveryRequest, DiscoveryStatus, TopicInfo};
use proptest::collection::vec;
use proptest::prelude::*;

/// Each node registers over loopback: the daemon does not see its process.
const LOOPBACK: PeerIdentity = PeerIdentity { is_local: true, ..REMOTE };
const NODES: [&str; 3] = ["n0", "n1", "n2"];
const PORTS: [u16; 2] = [5555, 5556];

#[derive(Clone, Copy, Debug)]
enum PortOperation {
    Bind { node: usize, port: usize },
    Register { node: usize, topic: usize, port: usize },
    Die { node: usize },
    Advance { seconds: u64 },
    Restart,
}

fn operations() -> impl Strategy<Value = PortOperation> {
    let (node, port, topic) = (0..NODES.len(), 0..PORTS.len(), 0..2_usize);
    prop_oneof![
        4 => (node.clone(), port.clone()).prop_map(|(node, port)| PortOperation::Bind { node, port }),
        6 => (node.clone(), topic, port)
            .prop_map(|(node, topic, port)| PortOperation::Register { node, topic, port }),
        3 => node.prop_map(|node| PortOperation::Die { node }),
        2 => (1..12_u64).prop_map(|seconds| PortOperation::Advance { seconds }),
        1 => Just(PortOperation::Restart),
    ]
}

/// A topic that a node has registered and not replaced.
#[derive(Clone, Copy, Debug)]
struct Registered {
    node: usize,
    port: usize,
    /// The socket that listened then.
    socket: u64,
}

#[derive(Default)]
struct Ports {
    /// The node that holds each port, and its socket.
    holders: BTreeMap<usize, (usize, u64)>,
    sockets: u64,
    registered: BTreeMap<String, Registered>,
    /// For how many seconds no node has held each port while the daemon ran.
    free_for: [u64; PORTS.len()],
}

fn address(port: usize) -> String {
    format!("tcp://127.0.0.1:{}", PORTS[port])
}

fn topic(node: usize, topic: usize, port: usize) -> TopicInfo {
    TopicInfo { address: address(port), ..info(&format!("/{node}/{topic}"), NODES[node]) }
}

impl Ports {
    fn apply(&mut self, world: &mut World, operation: PortOperation) {
        match operation {
            PortOperation::Bind { node, port } => {
                if !self.holders.contains_key(&port) {
                    self.sockets += 1;
                    self.holders.insert(port, (node, self.sockets));
                    self.free_for[port] = 0;
                    world.listeners.insert(address(port), EndpointListener::Socket(self.sockets));
                    world.set_endpoint(&address(port), ProbeResult::Alive);
                }
            }
            PortOperation::Register { node, topic: number, port } => {
                let Some(&(holder, socket)) = self.holders.get(&port) else { return };
                if holder == node {
                    let info = topic(node, number, port);
                    let name = info.name.to_string();
                    let reply = world.call(LOOPBACK, DiscoveryRequest::register(info));
                    assert_eq!(reply.status, DiscoveryStatus::Ok, "{}", reply.message);
                    self.registered.insert(name, Registered { node, port, socket });
                }
            }
            PortOperation::Die { node } => {
                self.holders.retain(|port, (holder, _)| {
                    let stays = *holder != node;
                    if !stays {
                        world.set_endpoint(&address(*port), ProbeResult::Dead);
                    }
                    stays
                });
            }
            PortOperation::Advance { seconds } => {
                world.advance(seconds);
                for (port, free_for) in self.free_for.iter_mut().enumerate() {
                    if !self.holders.contains_key(&port) {
                        *free_for += seconds;
                    }
                }
            }
            PortOperation::Restart => {
                world.restart();
                self.free_for = [0; PORTS.len()];
            }
        }
    }

    /// Whether the topic must be listed; `None` where the daemon cannot know it.
    fn expected(&self, known: Registered) -> Option<bool> {
        match self.holders.get(&known.port) {
            Some((_, socket)) if *socket == known.socket => Some(true),
            Some(&(holder, socket)) => {
                let is_claim =
                    |other: &&Registered| other.port == known.port && other.socket == socket;
                let is_claimed = self.registered.values().any(|other| is_claim(&other));
                (is_claimed && holder != known.node).then_some(false)
            }
            None => (self.free_for[known.port] > 2 * PROBE_INTERVAL.as_secs()).then_some(false),
        }
    }

    fn check(&self, world: &mut World) {
        let listed = world.names();
        for (name, known) in &self.registered {
            if let Some(expected) = self.expected(*known) {
                assert_eq!(listed.contains(name), expected, "{name}: {known:?}, {listed:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_topic_stays_with_its_socket_and_goes_with_it(operations in vec(operations(), 1..60)) {
        let (mut world, mut ports) = (World::new(), Ports::default());
        for operation in operations {
            ports.apply(&mut world, operation);
            ports.check(&mut world);
        }
    }
}
