//! CANCEL: a client ends its own parked requests, and they leave nothing behind.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{REMOTE, World, info, local};
use cortex_daemon::peer::{ConnectionId, ReplyTo};
use cortex_daemon::registry::{Input, PeerRequest};
use cortex_daemon::zmtp::Envelope;
use cortex_proto::{DiscoveryRequest, DiscoveryStatus, RequestExt, ResponseExt, Since};
use proptest::collection::vec;
use proptest::prelude::*;

const MINUTE_MS: u64 = 60_000;

fn wait(name: &str) -> DiscoveryRequest {
    DiscoveryRequest::wait(name, MINUTE_MS)
}

/// A WATCH that has seen everything up to a revision of the world's first epoch.
fn watch(revision: u64) -> DiscoveryRequest {
    let since = Some(Since { epoch: 7, revision });
    DiscoveryRequest::watch(RequestExt { since, ..RequestExt::default() })
}

fn on(connection: usize, frames: &[&[u8]]) -> ReplyTo {
    ReplyTo { connection: ConnectionId(connection), envelope: Envelope::of_frames(frames) }
}

fn input(reply_to: &ReplyTo, request: DiscoveryRequest) -> Input {
    let (reply_to, request) = (reply_to.clone(), Ok(Box::new(request)));
    Input::Request(PeerRequest { reply_to, peer: REMOTE, is_req: false, request })
}

fn send(world: &mut World, reply_to: &ReplyTo, request: DiscoveryRequest) {
    world.deliver(vec![input(reply_to, request)]);
}

/// Sends a CANCEL, which is answered at once, and returns how many requests it has ended.
fn cancel(world: &mut World, reply_to: &ReplyTo) -> u64 {
    send(world, reply_to, DiscoveryRequest::cancel());
    let (to, reply) = world.enveloped_replies.pop().unwrap();
    assert_eq!((&to, reply.status, &*reply.message), (reply_to, DiscoveryStatus::Ok, ""));
    let cancelled = reply.ext.as_ref().unwrap().cancelled;
    let ext = ResponseExt { cancelled, ..ResponseExt::default() };
    assert_eq!(reply.ext, Some(ext), "nothing else");
    cancelled.unwrap()
}

/// The numbers of parked WAIT and WATCH requests.
fn parked(world: &mut World) -> (u64, u64) {
    let counts = world.call(REMOTE, DiscoveryRequest::stats()).ext.unwrap().counts;
    (counts["waits"], counts["watches"])
}

#[test]
fn a_cancel_ends_the_request_with_its_envelope_and_no_other_one() {
    let mut world = World::new();
    let requests = [on(900, &[b"1"]), on(900, &[b"2"]), on(900, &[b"3"]), on(901, &[b"1"])];
    for (to, request) in requests.iter().zip([wait("/x"), watch(0), wait("/x"), wait("/x")]) {
        send(&mut world, to, request);
    }
    assert_eq!(parked(&mut world), (3, 1));
    assert_eq!(cancel(&mut world, &requests[0]), 1);
    assert_eq!(parked(&mut world), (2, 1));
    assert_eq!(cancel(&mut world, &requests[0]), 0, "it has ended already");
    assert_eq!(cancel(&mut world, &requests[1]), 1);
    assert_eq!(parked(&mut world), (2, 0));
    assert_eq!(world.cancelled, [900, 900]);
    assert!(world.enveloped_replies.is_empty(), "what a client has given up gets no reply");

    world.call(REMOTE, DiscoveryRequest::register(info("/x", "node")));
    let answered: Vec<_> = world.enveloped_replies.drain(..).map(|(to, _)| to).collect();
    assert_eq!(answered, requests[2..]);
    assert_eq!(cancel(&mut world, &requests[2]), 0, "it is answered");
}

#[test]
fn behind_a_proxy_a_client_ends_only_its_own_requests() {
    let mut world = World::new();
    // A proxy puts the name of the client in front. Both clients use the same numbers.
    let requests = [on(900, &[b"a", b"1"]), on(900, &[b"b", b"1"]), on(900, &[b"b"])];
    for to in &requests {
        send(&mut world, to, wait("/x"));
    }
    for other in [on(900, &[b"1"]), on(900, &[b"a"]), on(900, &[b"b", b"1", b"1"])] {
        assert_eq!(cancel(&mut world, &other), 0);
    }
    assert_eq!(cancel(&mut world, &requests[1]), 1);
    assert_eq!(parked(&mut world), (2, 0));
}

#[test]
fn requests_with_the_same_envelope_end_together() {
    let mut world = World::new();
    let to = on(900, &[b"1"]);
    for request in [wait("/x"), watch(0), wait("/y")] {
        send(&mut world, &to, request);
    }
    assert_eq!(cancel(&mut world, &to), 3);
    assert_eq!((parked(&mut world), world.registry.next_answer()), ((0, 0), None));
}

#[test]
fn a_cancel_reaches_a_request_of_the_same_batch() {
    let mut world = World::new();
    let to = on(900, &[b"1"]);
    world.deliver(vec![input(&to, wait("/x")), input(&to, DiscoveryRequest::cancel())]);
    let (_, reply) = world.enveloped_replies.pop().unwrap();
    assert_eq!(reply.ext.unwrap().cancelled, Some(1));
    assert!(world.enveloped_replies.is_empty());
    assert_eq!((parked(&mut world), &*world.cancelled), ((0, 0), &[900][..]));
}

#[test]
fn a_cancel_ends_a_parked_request_at_once_and_is_answered_in_its_turn() {
    let mut world = World::new();
    world.commit_rounds = usize::MAX;
    let [registering, waiting] = [on(900, &[b"1"]), on(900, &[b"2"])];
    world.deliver(vec![
        input(&waiting, wait("/y")),
        input(&registering, DiscoveryRequest::register(info("/x", "node"))),
        input(&waiting, DiscoveryRequest::cancel()),
    ]);
    assert!(world.is_committing() && world.enveloped_replies.is_empty());
    assert_eq!((parked(&mut world), &*world.cancelled), ((0, 0), &[900][..]));
    world.finish_commit();
    let answered: Vec<_> = world.enveloped_replies.iter().map(|(to, _)| to).collect();
    assert_eq!(answered, [&registering, &waiting]);
    assert_eq!(world.enveloped_replies[1].1.ext.as_ref().unwrap().cancelled, Some(1));
}

#[test]
fn a_cancel_of_a_batch_that_is_not_stored_ends_what_the_batch_parks_after_all() {
    let mut world = World::new();
    let [registering, waiting, cancelled] = [on(900, &[b"1"]), on(900, &[b"2"]), on(900, &[b"3"])];
    send(&mut world, &cancelled, wait("/y"));
    world.disk_is_full = true;
    // For this connection the topic seems to be registered when the WAITs are decided.
    world.deliver(vec![
        input(&registering, DiscoveryRequest::register(info("/x", "node"))),
        input(&waiting, wait("/x")),
        input(&cancelled, wait("/x")),
        input(&cancelled, DiscoveryRequest::cancel()),
    ]);
    let answered: Vec<_> = world.enveloped_replies.iter().map(|(to, _)| to).collect();
    assert_eq!(answered, [&registering, &cancelled]);
    assert_eq!(world.enveloped_replies[1].1.ext.as_ref().unwrap().cancelled, Some(2));
    assert_eq!((parked(&mut world), &*world.cancelled), ((1, 0), &[900, 900][..]));
}

#[test]
fn a_cancel_frees_the_bytes_of_a_filter() {
    let mut world = World::new();
    let filtered = |number: usize| {
        let filter = Some(format!("/{number:0>200}/*"));
        let since = Some(Since { epoch: 7, revision: 0 });
        DiscoveryRequest::watch(RequestExt { filter, since, ..RequestExt::default() })
    };
    // One user has 8 KiB for different patterns. Beyond that a watch is answered at once.
    for number in 0..1000 {
        let to = on(900, &[&number.to_string().into_bytes()]);
        send(&mut world, &to, filtered(number));
        assert!(world.enveloped_replies.is_empty(), "{number} is parked");
        assert_eq!(cancel(&mut world, &to), 1);
    }
}

#[test]
fn a_cancel_is_cheap_beside_many_parked_requests() {
    let mut world = World::new();
    let to = |number: usize| on(900, &[&number.to_be_bytes()]);
    let inputs = |request: fn() -> DiscoveryRequest| {
        (0..20_000).map(|number| input(&to(number), request())).collect()
    };
    world.deliver(inputs(|| wait("/x")));
    assert_eq!(parked(&mut world), (20_000, 0));
    // With a search through all requests of the connection this would take minutes.
    world.deliver(inputs(DiscoveryRequest::cancel));
    assert_eq!(parked(&mut world), (0, 0));
    assert_eq!(world.enveloped_replies.len(), 20_000);
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Wait { connection: usize, number: u8, topic: usize },
    Watch { connection: usize, number: u8 },
    Cancel { connection: usize, number: u8 },
    Register { topic: usize },
    Unregister { topic: usize },
    Disconnect { connection: usize },
    Advance { seconds: u64 },
    Disk { full: bool },
}

fn operations() -> impl Strategy<Value = Operation> {
    let (connection, number, topic) = (|| 900..902_usize, || 1..4_u8, || 0..2_usize);
    prop_oneof![
        6 => (connection(), number(), topic()).prop_map(|(connection, number, topic)| {
            Operation::Wait { connection, number, topic }
        }),
        4 => (connection(), number())
            .prop_map(|(connection, number)| Operation::Watch { connection, number }),
        6 => (connection(), number())
            .prop_map(|(connection, number)| Operation::Cancel { connection, number }),
        2 => topic().prop_map(|topic| Operation::Register { topic }),
        2 => topic().prop_map(|topic| Operation::Unregister { topic }),
        1 => connection().prop_map(|connection| Operation::Disconnect { connection }),
        1 => prop_oneof![Just(1), Just(30)].prop_map(|seconds| Operation::Advance { seconds }),
        1 => any::<bool>().prop_map(|full| Operation::Disk { full }),
    ]
}

const TOPICS: [&str; 2] = ["/a", "/b"];

/// A parked request of the model.
#[derive(Clone, Debug)]
struct ModelWaiter {
    to: ReplyTo,
    /// The topic of a WAIT; a watch takes every change.
    topic: Option<usize>,
    ends_at_s: u64,
}

/// The parked requests as a list, in the order in which they came.
struct Model {
    world: World,
    parked: Vec<ModelWaiter>,
    registered: [bool; 2],
    revision: u64,
    now_s: u64,
}

impl Model {
    fn new() -> Self {
        let (world, parked) = (World::new(), Vec::new());
        Self { world, parked, registered: [false; 2], revision: 0, now_s: 0 }
    }

    fn apply(&mut self, operation: Operation) {
        let frame = |number: u8| [number];
        let woken = match operation {
            Operation::Wait { connection, number, topic } => {
                let to = on(connection, &[&frame(number)]);
                send(&mut self.world, &to, wait(TOPICS[topic]));
                self.park(to, Some(topic), self.registered[topic])
            }
            Operation::Watch { connection, number } => {
                let to = on(connection, &[&frame(number)]);
                send(&mut self.world, &to, watch(self.revision));
                self.park(to, None, false)
            }
            Operation::Cancel { connection, number } => {
                let to = on(connection, &[&frame(number)]);
                let ended = self.take(|waiter| waiter.to == to);
                assert_eq!(cancel(&mut self.world, &to), ended.len() as u64);
                self.expect_cancelled(&ended);
                Vec::new()
            }
            Operation::Register { topic } => self.change(topic, true),
            Operation::Unregister { topic } => self.change(topic, false),
            Operation::Disconnect { connection } => {
                self.world.deliver(vec![Input::Disconnected(ConnectionId(connection))]);
                let ended = self.take(|waiter| waiter.to.connection.0 == connection);
                self.expect_cancelled(&ended);
                Vec::new()
            }
            Operation::Advance { seconds } => {
                self.world.advance(seconds);
                self.now_s += seconds;
                let now_s = self.now_s;
                self.take(|waiter| waiter.ends_at_s <= now_s)
            }
            Operation::Disk { full } => {
                self.world.disk_is_full = full;
                Vec::new()
            }
        };
        self.expect_replies(&woken);
    }

    /// Parks a request, unless it is answered at once.
    fn park(&mut self, to: ReplyTo, topic: Option<usize>, is_answered: bool) -> Vec<ModelWaiter> {
        let waiter = ModelWaiter { to, topic, ends_at_s: self.now_s + 60 };
        if is_answered {
            return vec![waiter];
        }
        self.parked.push(waiter);
        Vec::new()
    }

    /// Registers or unregisters a topic, and returns the requests that wake.
    fn change(&mut self, topic: usize, registers: bool) -> Vec<ModelWaiter> {
        let request = if registers {
            DiscoveryRequest::register(info(TOPICS[topic], "node"))
        } else {
            DiscoveryRequest::unregister(TOPICS[topic])
        };
        self.world.call(local(1, 10), request);
        if self.world.disk_is_full || self.registered[topic] == registers {
            return Vec::new();
        }
        self.registered[topic] = registers;
        self.revision += 1;
        self.take(|waiter| waiter.topic.is_none() || registers && waiter.topic == Some(topic))
    }

    fn take(&mut self, is_taken: impl Fn(&ModelWaiter) -> bool) -> Vec<ModelWaiter> {
        let (taken, kept) = self.parked.drain(..).partition(is_taken);
        self.parked = kept;
        taken
    }

    fn expect_cancelled(&mut self, ended: &[ModelWaiter]) {
        let connections: Vec<_> = ended.iter().map(|waiter| waiter.to.connection.0).collect();
        assert_eq!(std::mem::take(&mut self.world.cancelled), connections);
    }

    /// Asserts that exactly these requests are answered, and that the others are parked.
    fn expect_replies(&mut self, woken: &[ModelWaiter]) {
        let text = |to: &ReplyTo| format!("{to:?}");
        let mut expected: Vec<_> = woken.iter().map(|waiter| text(&waiter.to)).collect();
        let replies = std::mem::take(&mut self.world.enveloped_replies);
        let mut answered: Vec<_> = replies.iter().map(|(to, _)| text(to)).collect();
        expected.sort();
        answered.sort();
        assert_eq!(answered, expected);
        let waits = self.parked.iter().filter(|waiter| waiter.topic.is_some()).count();
        let watches = self.parked.len() - waits;
        assert_eq!(parked(&mut self.world), (waits as u64, watches as u64));
        let first_end = self.parked.iter().map(|waiter| waiter.ends_at_s).min();
        let end =
            first_end.map(|end| self.world.now.instant + Duration::from_secs(end - self.now_s));
        assert_eq!(self.world.registry.next_answer(), end);
    }
}

proptest! {
    #[test]
    fn parked_requests_match_the_model(operations in vec(operations(), 1..60)) {
        let mut model = Model::new();
        for operation in operations {
            model.apply(operation);
        }
    }
}
