//! Half an hour of thousands of nodes, in virtual time. Nodes start, stop and are killed, wait for
//! each other's topics, and renew their sessions. The daemon is killed several times.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::watcher::Watcher;
use common::{REMOTE, World, info, local};
use cortex_daemon::peer::PeerIdentity;
use cortex_daemon::registry::ProbeResult;
use cortex_proto::{
    DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, RequestExt, Session, TopicInfo,
};

const NODES: usize = 3000;
const SECONDS: u64 = 1800;
const LEASE_MS: u64 = 40_000;
/// One node of this many uses TCP, and a session holds its topics.
const REMOTE_EACH: usize = 7;

/// A xorshift generator with a fixed seed, so that every run is the same.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }
}

/// A node that runs.
struct Node {
    peer: PeerIdentity,
    /// Its WAIT for its neighbour's topic, until the topic is registered.
    parked_request: Option<usize>,
}

struct Fleet {
    world: World,
    chance: Chance,
    living: BTreeMap<usize, Node>,
    /// The nodes that have ended since the last check. Their topics may still be registered.
    dying: BTreeSet<usize>,
    births: u32,
    found: usize,
}

fn topics(number: usize) -> [TopicInfo; 2] {
    let node = format!("node_{number}");
    let group = number % 10;
    [format!("/{group}/{number}/state"), format!("/{group}/{number}/image")]
        .map(|name| info(&name, &node))
}

impl Fleet {
    fn new() -> Self {
        Self {
            world: World::new(),
            chance: Chance(0x9e37_79b9_7f4a_7c15),
            living: BTreeMap::new(),
            dying: BTreeSet::new(),
            births: 0,
            found: 0,
        }
    }

    fn call_batch(
        &mut self,
        number: usize,
        requests: Vec<DiscoveryRequest>,
    ) -> Vec<DiscoveryResponse> {
        let peer = self.living[&number].peer;
        let requests = requests.into_iter().map(|request| (peer, request)).collect();
        self.world.call_batch(requests)
    }

    fn start(&mut self, number: usize) {
        self.births += 1;
        let is_remote = number.is_multiple_of(REMOTE_EACH);
        let peer = if is_remote { REMOTE } else { local(1, 1000 + self.births) };
        self.living.insert(number, Node { peer, parked_request: None });
        self.dying.remove(&number);
        let session = Session { id: format!("{number}"), lease_ms: Some(LEASE_MS) };
        let ext = RequestExt { session: is_remote.then_some(session), ..RequestExt::default() };
        for topic in topics(number) {
            self.world.set_endpoint(&topic.address, ProbeResult::Alive);
            let register = DiscoveryRequest::register(topic).with_ext(ext.clone());
            let replies = self.call_batch(number, vec![register]);
            assert_eq!(replies[0].status, DiscoveryStatus::Ok, "{replies:?}");
        }
        self.wait_for_neighbour(number);
    }

    fn wait_for_neighbour(&mut self, number: usize) {
        let [wanted, _] = topics((number + 1) % NODES);
        let peer = self.living[&number].peer;
        let request = self.world.send(peer, DiscoveryRequest::wait(wanted.name.as_str(), 60_000));
        if let Some(node) = self.living.get_mut(&number) {
            node.parked_request = Some(request);
        }
    }

    fn end(&mut self, number: usize, is_kill: bool) {
        if !is_kill {
            let unregister =
                topics(number).map(|topic| DiscoveryRequest::unregister(topic.name.as_str()));
            for reply in self.call_batch(number, unregister.into()) {
                assert_eq!(reply.status, DiscoveryStatus::Ok);
            }
        }
        for topic in topics(number) {
            self.world.set_endpoint(&topic.address, ProbeResult::Dead);
        }
        let node = self.living.remove(&number).unwrap();
        if let Some(process) = node.peer.process {
            self.world.kill(process);
        }
        self.dying.insert(number);
    }

    /// Takes the replies to the nodes' WAITs. A node whose WAIT has expired sends the next one.
    fn take_wait_replies(&mut self) {
        let answered: Vec<_> = self
            .living
            .iter()
            .filter_map(|(number, node)| {
                Some((*number, self.world.replies.remove(&node.parked_request?)?))
            })
            .collect();
        for (number, reply) in answered {
            if reply.status == DiscoveryStatus::Ok {
                let [wanted, _] = topics((number + 1) % NODES);
                assert_eq!(reply.topic_info, Some(wanted));
                self.found += 1;
                self.living.get_mut(&number).unwrap().parked_request = None;
            } else {
                self.wait_for_neighbour(number);
            }
        }
    }

    fn renew(&mut self) {
        let remote = self.living.keys().filter(|number| number.is_multiple_of(REMOTE_EACH));
        let renewals = remote.map(|number| {
            let session = Session { id: format!("{number}"), lease_ms: None };
            (REMOTE, DiscoveryRequest::renew(session))
        });
        for reply in self.world.call_batch(renewals.collect()) {
            assert_eq!(reply.ext.unwrap().known, Some(true));
        }
    }

    /// Restarts the daemon. Each node that waited has lost its connection, and sends its WAIT again.
    fn restart(&mut self, watchers: &mut [Watcher]) {
        self.world.restart();
        for watcher in watchers {
            watcher.lose_reply(&mut self.world);
        }
        let waited = self.living.iter().filter(|(_, node)| node.parked_request.is_some());
        for number in waited.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.wait_for_neighbour(number);
        }
    }

    /// Asserts that the topics of all running nodes are registered, and no other topics but those of
    /// nodes that have just ended. The topic of each parked WAIT is not registered.
    fn check(&mut self) -> Vec<TopicInfo> {
        let list = self.world.list();
        let known: BTreeSet<_> = list.iter().map(|topic| topic.name.as_str()).collect();
        for (number, node) in &self.living {
            assert!(topics(*number).iter().all(|topic| known.contains(topic.name.as_str())));
            let [wanted, _] = topics((number + 1) % NODES);
            let waits = node.parked_request.is_some();
            assert!(!waits || !known.contains(wanted.name.as_str()), "{number} waits in vain");
        }
        let others = list.len() - 2 * self.living.len();
        assert!(others <= 2 * self.dying.len(), "{others} topics without a node");
        list
    }
}

#[test]
fn every_change_in_half_an_hour_of_a_large_fleet_is_seen() {
    let mut fleet = Fleet::new();
    let filters = [None, Some("/3/**"), Some("/*/*/state"), Some("/4/14/image")];
    let mut watchers = filters.map(|filter| Watcher::new(filter, None));
    for second in 0..SECONDS {
        // The fleet starts within two minutes. Then nodes stop and start.
        for _ in 0..if second < 120 { NODES / 100 } else { 4 } {
            let number = fleet.chance.below(NODES);
            if !fleet.living.contains_key(&number) {
                fleet.start(number);
            } else if second >= 120 {
                let is_kill = fleet.chance.below(3) > 0;
                fleet.end(number, is_kill);
            }
        }
        if second.is_multiple_of(10) {
            fleet.renew();
        }
        fleet.world.advance(1);
        fleet.take_wait_replies();
        watchers[0].catch_up(&mut fleet.world);
        if second % 600 == 300 {
            fleet.restart(&mut watchers);
        }
        if second.is_multiple_of(120) {
            let list = fleet.check();
            for watcher in &mut watchers {
                watcher.catch_up(&mut fleet.world);
                watcher.check(&list, &[]);
            }
            fleet.dying.clear();
        }
    }
    let list = fleet.check();
    assert!(list.len() > NODES / 2, "{} topics", list.len());
    assert!(fleet.found > NODES / 2, "{} have found their neighbour", fleet.found);
    // One snapshot is enough: the watch gets every later change, also over the restarts.
    let [all, ..] = &watchers;
    assert_eq!(all.snapshots, 1);
    assert!(all.seen.is_sorted_by(|one, next| one + 1 == *next), "no gap");
    assert!(all.seen.len() > 5_000, "{} changes", all.seen.len());
}
