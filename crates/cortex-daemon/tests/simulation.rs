//! The registry compared with a naive model: nodes register, unregister, end and start again,
//! endpoints fall silent, sessions expire, the disk is full or slow, and the daemon is killed and starts
//! again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use common::{REMOTE, World, info, local};
use cortex_daemon::peer::{PeerIdentity, Process};
use cortex_daemon::registry::{ProbeResult, UnknownReason};
use cortex_proto::{DiscoveryRequest, DiscoveryStatus, Hold, RequestExt, Session, TopicInfo};
use proptest::collection::vec;
use proptest::prelude::*;

const LEASE_S: u64 = 2000;
/// More than twice the longest pause between two probes of an endpoint, in s.
const SETTLING_S: u64 = 150;

#[derive(Clone, Copy, Debug)]
enum FleetOperation {
    Register { node: usize, topic: usize, hold: usize },
    Unregister { node: usize, topic: usize },
    Kill { node: usize },
    Endpoint { topic: usize, node: usize, result: ProbeResult },
    Renew { node: usize },
    Advance { seconds: u64 },
    Disk { full: bool },
    Store { commit_rounds: usize },
    Restart,
}

fn operations() -> impl Strategy<Value = FleetOperation> {
    let results = prop_oneof![
        3 => Just(ProbeResult::Dead),
        1 => Just(ProbeResult::Silent),
        2 => Just(ProbeResult::Alive),
        1 => Just(ProbeResult::Unknown(UnknownReason::Failure)),
    ];
    prop_oneof![
        8 => (0..4_usize, 0..3_usize, 0..4_usize)
            .prop_map(|(node, topic, hold)| FleetOperation::Register { node, topic, hold }),
        3 => (0..4_usize, 0..3_usize)
            .prop_map(|(node, topic)| FleetOperation::Unregister { node, topic }),
        3 => (0..4_usize).prop_map(|node| FleetOperation::Kill { node }),
        4 => (0..3_usize, 0..4_usize, results)
            .prop_map(|(topic, node, result)| FleetOperation::Endpoint { topic, node, result }),
        1 => (0..4_usize).prop_map(|node| FleetOperation::Renew { node }),
        2 => prop_oneof![Just(1), Just(LEASE_S / 2), Just(LEASE_S)]
            .prop_map(|seconds| FleetOperation::Advance { seconds }),
        2 => any::<bool>().prop_map(|full| FleetOperation::Disk { full }),
        1 => (0..3_usize).prop_map(|commit_rounds| FleetOperation::Store { commit_rounds }),
        1 => Just(FleetOperation::Restart),
    ]
}

const TOPICS: [&str; 3] = ["/a", "/b", "/c"];
const NODES: [&str; 4] = ["n0", "n1", "n2", "remote"];

/// A topic that should be registered.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "a model of independent facts")]
struct ModelTopic {
    info: TopicInfo,
    owner: PeerIdentity,
    hold: usize,
    found_alive: bool,
    /// Whether the daemon has recorded the listener of the registration.
    has_listener: bool,
    /// Whether the daemon will probe the endpoint of a running owner, to record the listener.
    is_to_be_recorded: bool,
    /// Whether the daemon was restarted since, and judges the endpoint of a running owner.
    is_restored: bool,
    /// The daemon knows that it is dead, and could not store the eviction.
    is_dead: bool,
    /// The rest of its session's lease, in s.
    lease_left: u64,
}

struct Simulation {
    world: World,
    /// How often each node has been started again. Each start is a new process.
    lives: [u32; 4],
    known: Vec<ModelTopic>,
    endpoints: BTreeMap<String, ProbeResult>,
}

impl Simulation {
    fn new() -> Self {
        Self { world: World::new(), lives: [0; 4], known: Vec::new(), endpoints: BTreeMap::new() }
    }

    /// A node's peer identity: the nodes have two users, and one node uses TCP.
    fn peer(&self, node: usize) -> PeerIdentity {
        match node {
            3 => REMOTE,
            _ => local(u32::from(node == 2), 10 + 100 * self.lives[node] + node_pid(node)),
        }
    }

    fn probe_result(&self, info: &TopicInfo) -> ProbeResult {
        self.endpoints.get(&info.address).copied().unwrap_or(ProbeResult::Alive)
    }

    fn has_exited(&self, process: Option<Process>) -> bool {
        process.is_some_and(|process| self.world.exited.contains(&process))
    }

    fn apply(&mut self, operation: FleetOperation) {
        match operation {
            FleetOperation::Register { node, topic, hold } => self.register(node, topic, hold),
            FleetOperation::Unregister { node, topic } => self.unregister(node, topic),
            FleetOperation::Kill { node } => {
                if let Some(process) = self.peer(node).process {
                    self.world.kill(process);
                    self.lives[node] += 1;
                }
            }
            FleetOperation::Endpoint { topic, node, result } => {
                let address = info(TOPICS[topic], NODES[node]).address;
                self.world.set_endpoint(&address, result);
                self.endpoints.insert(address, result);
            }
            FleetOperation::Renew { node } => self.renew(node),
            FleetOperation::Advance { seconds } => self.advance(seconds),
            FleetOperation::Disk { full } => self.world.disk_is_full = full,
            FleetOperation::Store { commit_rounds } => self.world.commit_rounds = commit_rounds,
            FleetOperation::Restart => {
                self.world.restart();
                for known in &mut self.known {
                    known.lease_left = LEASE_S;
                    known.is_restored = true;
                    known.is_to_be_recorded = true;
                    // The store has it still: it is judged again.
                    known.is_dead = false;
                }
            }
        }
        // Long enough for two probes of every endpoint that the daemon judges, and for a retry of a
        // change that could not be stored.
        self.advance(SETTLING_S);
        self.check();
    }

    fn register(&mut self, node: usize, topic: usize, hold: usize) {
        let (peer, info) = (self.peer(node), info(TOPICS[topic], NODES[node]));
        let session = Session { id: NODES[node].into(), lease_ms: Some(LEASE_S * 1000) };
        let ext = match hold {
            0 => None,
            1 => Some(RequestExt { hold: Some(Hold::Process), ..RequestExt::default() }),
            2 => Some(RequestExt { hold: Some(Hold::Static), ..RequestExt::default() }),
            _ => Some(RequestExt { session: Some(session), ..RequestExt::default() }),
        };
        let request = DiscoveryRequest { ext, ..DiscoveryRequest::register(info.clone()) };
        let reply = self.world.call(peer, request);

        // A dead topic, and one whose endpoint is dead twice, keep their name no longer.
        let name = &info.name;
        let is_free = |known: &ModelTopic| known.is_dead || self.loses_name(known);
        let at = self.known.iter().position(|known| known.info.name == *name);
        let present = at.map(|at| &self.known[at]);
        let is_others = present.is_some_and(|known| known.info.publisher_node != NODES[node]);
        let may = present.is_none_or(|known| known.owner.uid == peer.uid || peer.uid == Some(0));
        let is_refused = present.is_some_and(|known| !known.is_dead) && (is_others || !may);
        if is_refused && !present.is_some_and(is_free) {
            assert_ne!(reply.status, DiscoveryStatus::Ok, "{reply:?}");
            return;
        }
        let is_new = is_refused || present.is_some_and(|known| known.is_dead);
        let present = present.filter(|_| !is_new);
        let is_same_owner = present.is_some_and(|known| known.owner == peer);
        let has_listener = is_same_owner && present.is_some_and(|known| known.has_listener);
        let new = ModelTopic {
            info,
            owner: peer,
            hold: hold.max(1),
            found_alive: present.is_some_and(|known| known.found_alive),
            has_listener,
            is_to_be_recorded: !has_listener,
            is_restored: false,
            is_dead: false,
            lease_left: LEASE_S,
        };
        let is_same = present.is_some_and(|known| known.owner == peer && known.hold == new.hold);
        if self.world.disk_is_full && !is_same {
            assert_eq!(reply.status, DiscoveryStatus::Error);
            if new.hold == 3 {
                self.renew_lease(node);
            }
            return;
        }
        assert_eq!(reply.status, DiscoveryStatus::Ok, "{reply:?}");
        if new.hold == 3 {
            self.renew_lease(node);
        }
        match at {
            Some(at) if is_same => self.known[at].lease_left = LEASE_S,
            Some(at) if !is_new => self.known[at] = new,
            Some(at) => {
                self.known.remove(at);
                self.known.push(new);
            }
            None => self.known.push(new),
        }
    }

    /// Whether a REGISTER by another node would find the endpoint of an owner that may live dead.
    fn loses_name(&self, known: &ModelTopic) -> bool {
        let is_dead = self.probe_result(&known.info) == ProbeResult::Dead;
        known.hold == 1 && is_dead && (known.owner.process.is_none() || known.found_alive)
    }

    fn unregister(&mut self, node: usize, topic: usize) {
        let peer = self.peer(node);
        let reply = self.world.call(peer, DiscoveryRequest::unregister(TOPICS[topic]));
        let Some(at) =
            self.known.iter().position(|known| known.info.name.as_str() == TOPICS[topic])
        else {
            assert_eq!(reply.status, DiscoveryStatus::NotFound);
            return;
        };
        if self.known[at].is_dead {
            assert_eq!(reply.status, DiscoveryStatus::NotFound);
            return;
        }
        let owner = self.known[at].owner;
        if (owner.uid == peer.uid || peer.uid == Some(0)) && !self.world.disk_is_full {
            assert_eq!(reply.status, DiscoveryStatus::Ok);
            self.known.remove(at);
        } else {
            assert_eq!(reply.status, DiscoveryStatus::Error);
        }
    }

    fn renew(&mut self, node: usize) {
        let session = Session { id: NODES[node].into(), lease_ms: None };
        let reply = self.world.call(self.peer(node), DiscoveryRequest::renew(session));
        let is_known = self.renew_lease(node);
        assert_eq!(reply.ext.unwrap().known, Some(is_known));
    }

    /// Gives a node's session a full lease. Returns whether the session exists.
    fn renew_lease(&mut self, node: usize) -> bool {
        let uid = self.peer(node).uid;
        let of_session = |known: &&mut ModelTopic| {
            known.hold == 3
                && !known.is_dead
                && known.owner.uid == uid
                && known.info.publisher_node == NODES[node]
        };
        let renewed: Vec<_> = self.known.iter_mut().filter(of_session).collect();
        let is_known = !renewed.is_empty();
        for known in renewed {
            known.lease_left = LEASE_S;
        }
        is_known
    }

    /// Advances the clock, and removes the topics that the daemon should evict in this time.
    fn advance(&mut self, seconds: u64) {
        self.world.advance(seconds);
        let full = self.world.disk_is_full;
        for known in &mut self.known {
            known.lease_left = known.lease_left.saturating_sub(seconds);
        }
        for at in 0..self.known.len() {
            let is_dead = self.known[at].is_dead || self.is_gone(&self.known[at]);
            let result = self.probe_result(&self.known[at].info);
            let is_served = matches!(result, ProbeResult::Alive | ProbeResult::Silent);
            let has_exited = self.has_exited(self.known[at].owner.process);
            let known = &mut self.known[at];
            let is_unseen = known.owner.process.is_none();
            let is_probed = is_unseen || has_exited || known.is_to_be_recorded;
            known.is_dead = is_dead;
            // A probe that fails judges nothing, and is repeated.
            known.is_restored &= result == ProbeResult::Unknown(UnknownReason::Failure);
            known.is_to_be_recorded &= full && is_served;
            if known.hold == 1 && is_served && is_probed && !full && !is_dead {
                known.found_alive = true;
                known.has_listener = true;
            }
        }
        self.known.retain(|known| full || !known.is_dead);
    }

    fn is_gone(&self, known: &ModelTopic) -> bool {
        let result = self.probe_result(&known.info);
        match known.hold {
            1 if known.owner.process.is_none() => known.found_alive && result == ProbeResult::Dead,
            // All endpoints have a publisher that is older than the registrations.
            1 if self.has_exited(known.owner.process) => {
                !matches!(result, ProbeResult::Alive | ProbeResult::Silent)
            }
            1 => known.is_restored && known.found_alive && result == ProbeResult::Dead,
            2 => false,
            _ => known.lease_left == 0,
        }
    }

    /// Asserts that the registry, its store and the model have the same topics.
    fn check(&mut self) {
        let visible = self.known.iter().filter(|known| !known.is_dead);
        let visible: Vec<_> = visible.map(|known| known.info.clone()).collect();
        assert_eq!(self.world.list(), visible);
        let expected: Vec<_> = self.known.iter().map(|known| known.info.clone()).collect();
        let stored: Vec<_> = self
            .world
            .snapshot()
            .records
            .iter()
            .map(|record| TopicInfo::from_bytes(&record.packed).unwrap())
            .collect();
        assert_eq!(stored, expected, "what is dead stays stored until the store can remove it");
    }
}

fn node_pid(node: usize) -> u32 {
    u32::try_from(node).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn the_registry_matches_the_model(operations in vec(operations(), 1..40)) {
        let mut simulation = Simulation::new();
        for operation in operations {
            simulation.apply(operation);
        }
    }
}
