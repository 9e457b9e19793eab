//! The request path of the registry: any bytes from any peers, in batches that are stored or rolled
//! back, while processes end. Every request gets one readable reply, and the store has the topics
//! of the registry.
//!
//! The input is a sequence of steps. A step is a control byte (the peer, and what happens next), a
//! byte with the length of a request, and the request.

#![no_main]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cortex_daemon::peer::{ConnectionId, PeerIdentity, Process, ReplyTo};
use cortex_daemon::registry::{
    Access, Input, Limits, PeerRequest, ProbeResult, Record, Registry, Settings, Snapshot,
    Timestamp, UnknownReason, UnreadableRequest, WaitingRequests, Write,
};
use cortex_daemon::zmtp::Envelope;
use cortex_proto::{DiscoveryRequest, DiscoveryResponse, TopicInfo, TopicName};
use libfuzzer_sys::fuzz_target;

struct World {
    registry: Registry,
    now: Timestamp,
    stored: BTreeMap<TopicName, Record>,
    /// What the store has under way.
    under_way: Option<Vec<Write>>,
    sent: usize,
    unanswered: usize,
    inputs: Vec<Input>,
}

impl World {
    fn new() -> Self {
        let settings = Settings {
            limits: Limits { topics: 8, field_bytes: 64 },
            access: Access { daemon_uid: 1, allow_remote_shutdown: false },
            probe_interval: Duration::from_secs(5),
            unreachable_after: Some(Duration::from_secs(60)),
            server: "fuzzed".into(),
            pid: 1,
            history: 4,
        };
        let now = Timestamp { instant: Instant::now(), unix_ms: 0, boot_ticks: 0 };
        Self {
            registry: Registry::restore(settings, Snapshot::default(), now).expect("no records"),
            now,
            stored: BTreeMap::new(),
            under_way: None,
            sent: 0,
            unanswered: 0,
            inputs: Vec::new(),
        }
    }

    fn send(&mut self, peer: PeerIdentity, bytes: &[u8]) {
        let request =
            DiscoveryRequest::from_bytes(bytes).map(Box::new).map_err(|error| UnreadableRequest {
                problem: error.to_string(),
                asks_for_ext: DiscoveryRequest::asks_for_ext(bytes),
            });
        // Each peer sends two requests, and every other peer is a REQ socket.
        let (connection, is_req) = (ConnectionId(self.sent / 2), self.sent / 2 % 2 == 0);
        let from = ReplyTo { connection, envelope: Envelope::default() };
        self.sent += 1;
        self.unanswered += 1;
        self.registry.handle(
            Input::Request(PeerRequest { reply_to: from, peer, is_req, request }),
            self.now,
        );
    }

    /// Ends the commit under way: the store has it, or the disk is full.
    fn end_commit(&mut self, disk_is_full: bool) {
        let Some(writes) = self.under_way.take() else { return };
        if disk_is_full {
            return self.registry.rollback("full", self.now);
        }
        for write in writes {
            match write.record {
                Some(record) => self.stored.insert(write.name, record),
                None => self.stored.remove(&write.name),
            };
        }
        self.registry.commit(self.now);
    }

    /// Ends a round, in which a commit may begin and, unless the store is slow, ends. All probes
    /// have this result.
    fn end_round(&mut self, disk_is_full: bool, store_is_slow: bool, result: ProbeResult) {
        let mut waiting = WaitingRequests::default();
        if disk_is_full {
            waiting.add(None, self.now.instant);
        }
        self.registry.handle(Input::Tick { waiting }, self.now);
        if let Some(writes) = self.registry.begin_commit(self.now) {
            self.under_way = Some(writes);
        }
        if !store_is_slow {
            self.end_commit(disk_is_full);
        }
        let effects = self.registry.take_effects(self.now);
        self.unanswered -= effects.replies.len() + effects.cancelled.len();
        for reply in effects.replies {
            let body = reply.body.into_bytes(Vec::new);
            let response = DiscoveryResponse::from_bytes(&body).expect("our own reply");
            assert_eq!(response.status, reply.status);
        }
        for process in effects.watch {
            if process.pid % 2 == 0 {
                self.inputs.push(Input::ProcessExited(process));
            }
        }
        self.inputs.extend(effects.check.into_iter().map(Input::ProcessChecked));
        for probe in effects.probe {
            let (name, revision) = (probe.name, probe.revision);
            self.inputs.push(Input::EndpointProbed { name, revision, result, listener: None });
        }
        for input in std::mem::take(&mut self.inputs) {
            self.registry.handle(input, self.now);
        }
    }

    fn check(&mut self) {
        let snapshot = self.registry.snapshot(0);
        assert!(snapshot.records.len() <= 8);
        let mut stored: Vec<_> = self.stored.values().cloned().collect();
        stored.sort_by_key(|record| record.order);
        assert_eq!(snapshot.records, stored);
        for record in &stored {
            let info = TopicInfo::from_bytes(&record.packed).expect("our own bytes");
            assert_eq!(info.name, record.name);
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut world = World::new();
    let mut rest = input;
    while let [control, length, behind @ ..] = rest {
        let (bytes, behind) = behind.split_at(usize::from(*length).min(behind.len()));
        rest = behind;
        let pid = u32::from(control & 3);
        let process = (pid > 0).then_some(Process { pid, start_time: 1 });
        let uid = (pid > 0).then_some(pid / 2);
        world.send(PeerIdentity { uid, process, is_local: uid.is_some() }, bytes);
        if control & 4 == 0 {
            continue;
        }
        let result = match control >> 6 {
            0 => ProbeResult::Dead,
            1 => ProbeResult::Silent,
            2 => ProbeResult::Alive,
            _ => ProbeResult::Unknown(UnknownReason::Failure),
        };
        world.end_round(control & 8 != 0, length % 4 == 3, result);
        world.now.instant += Duration::from_secs(u64::from(control >> 4 & 3) * 3);
        if control & 32 != 0 {
            world.registry.handle(Input::Disconnected(ConnectionId(world.sent / 2)), world.now);
        }
        if control & 16 != 0 {
            world.registry.handle(Input::TimeGap, world.now);
        }
    }
    // Every parked request is answered within a minute. Then the store has all changes.
    for _ in 0..32 {
        world.now.instant += Duration::from_secs(2);
        world.end_round(false, false, ProbeResult::Unknown(UnknownReason::Failure));
    }
    world.end_round(false, false, ProbeResult::Unknown(UnknownReason::Failure));
    assert_eq!(world.unanswered, 0, "every request is answered");
    world.check();
});
