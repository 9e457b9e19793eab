//! Probes and checks of owners: which begin, and what follows from their results.

use std::time::{Duration, Instant};

use cortex_proto::TopicName;

use super::effect::{Effects, ProbeRequest};
use super::input::ProbeResult;
use super::liveness::looks::{Awaits, LookResult};
use super::liveness::pending_registers::PendingRegister;
use super::liveness::probe_schedule::Verdict;
use super::log::record::EvictionReason;
use super::registrations::{Registrations, has_changed};
use crate::peer::{EndpointListener, Process};

/// How long a probe may wait for a greeting.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same where a REGISTER waits, or may come soon: for the topic of a dead owner.
const SHORT_PATIENCE: Duration = Duration::from_millis(250);

/// What follows from a result for a topic, and for the REGISTERs that wait for its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Nothing yet.
    None,
    /// The topic is dead.
    Evict(EvictionReason),
    /// The topic's owner may live, but has closed its socket: the name is free.
    NameFree,
    /// The topic keeps its name.
    NameTaken,
}

/// Begins the probes that are due. Each time the daemon also checks the owner's process, where it
/// cannot watch it.
pub(super) fn begin_probes(registrations: &mut Registrations, effects: &mut Effects, now: Instant) {
    for name in registrations.liveness.take_due(now) {
        let Registrations { directory, liveness, .. } = &*registrations;
        let Some(entry) = directory.get(name.as_str()) else { continue };
        if directory.needs_probes(&entry.hold, entry.owner.process) {
            effects.check.extend(entry.living_process());
        }
        let is_urgent = entry.is_orphaned || liveness.pending.contains(&name);
        probe(registrations, effects, &name, if is_urgent { SHORT_PATIENCE } else { PATIENCE });
    }
    for name in registrations.liveness.looks.take_due(now) {
        probe(registrations, effects, &name, SHORT_PATIENCE);
    }
}

/// Begins to look whether the owner of a topic still lives, unless such a look is under way.
pub(super) fn begin_look(
    registrations: &mut Registrations,
    effects: &mut Effects,
    name: &TopicName,
    now: Instant,
) {
    let Registrations { directory, liveness, .. } = &mut *registrations;
    let Some(entry) = directory.get(name.as_str()) else { return };
    if liveness.looks.get(name).is_some() {
        return;
    }
    if let Some(process) = entry.living_process() {
        effects.check.push(process);
        liveness.looks.set(name.clone(), Awaits::ProcessCheck(process));
    } else if entry.is_orphaned {
        liveness.looks.set(name.clone(), Awaits::OrphanVerdict);
        liveness.reschedule(name, now);
        begin_probes(registrations, effects, now);
    } else {
        liveness.looks.set(name.clone(), Awaits::Probe { dead: 0 });
        probe(registrations, effects, name, SHORT_PATIENCE);
    }
}

/// Takes the check of a process. If it has ended, its topics are orphaned by now. Returns the topics
/// that keep their name.
pub(super) fn process_checked(
    registrations: &mut Registrations,
    effects: &mut Effects,
    process: Process,
) -> Vec<TopicName> {
    let mut taken = Vec::new();
    for name in registrations.liveness.looks.awaiting_check(process) {
        let Registrations { directory, liveness, .. } = &mut *registrations;
        let Some(entry) = directory.get(name.as_str()) else { continue };
        let is_unseen = directory.needs_probes(&entry.hold, entry.owner.process);
        if entry.is_orphaned {
            liveness.looks.set(name, Awaits::OrphanVerdict);
        } else if is_unseen || entry.found_alive {
            liveness.looks.set(name.clone(), Awaits::Probe { dead: 0 });
            probe(registrations, effects, &name, SHORT_PATIENCE);
        } else {
            taken.push(name);
        }
    }
    taken
}

/// Takes a probe's result, which is for the registration of this revision.
pub(super) fn endpoint_probed(
    registrations: &mut Registrations,
    name: &TopicName,
    revision: u64,
    (result, listener): (ProbeResult, Option<EndpointListener>),
    now: Instant,
) -> Judgement {
    let present = registrations.directory.get(name.as_str());
    if present.is_none_or(|entry| entry.revision != revision) {
        // A late result, for a registration that is no more.
        return Judgement::None;
    }
    let verdict = registrations.probed(name, result, listener, now);
    if let Some(Verdict::Evict(reason)) = verdict {
        return Judgement::Evict(reason);
    }
    match registrations.liveness.looks.probed(name, result, now) {
        LookResult::Free => Judgement::NameFree,
        LookResult::Taken if is_left_to_newcomer(registrations, name, listener) => {
            Judgement::NameFree
        }
        LookResult::Taken => Judgement::NameTaken,
        LookResult::Undecided => {
            let awaits = registrations.liveness.looks.get(name);
            let is_verdict = verdict.is_some() && awaits == Some(Awaits::OrphanVerdict);
            if is_verdict { Judgement::NameTaken } else { Judgement::None }
        }
    }
}

/// Whether the socket of an unseen owner is gone, and a REGISTER waits that names the endpoint for
/// another node.
fn is_left_to_newcomer(
    registrations: &Registrations,
    name: &TopicName,
    found: Option<EndpointListener>,
) -> bool {
    let Registrations { directory, liveness, .. } = registrations;
    directory.get(name.as_str()).is_some_and(|entry| {
        let is_unseen = directory.needs_probes(&entry.hold, entry.owner.process);
        is_unseen
            && has_changed(entry.listener, found)
            && liveness.pending.names_endpoint(name, &entry.info.address)
    })
}

/// Takes the REGISTERs that `is_over` picks. A name is never denied for the sake of a dead owner only
/// because the probe of its endpoint does not end: such a topic is evicted first.
pub(super) fn end_pending_registers(
    registrations: &mut Registrations,
    is_over: impl Fn(&PendingRegister) -> bool,
) -> Vec<PendingRegister> {
    let over = registrations.liveness.pending.take(is_over);
    for PendingRegister { name, .. } in &over {
        if registrations.liveness.is_orphan_without_result(name) {
            registrations.evict(name, EvictionReason::OwnerExited);
        }
        if !registrations.liveness.pending.contains(name) {
            registrations.liveness.looks.end(name);
        }
    }
    over
}

fn probe(
    registrations: &Registrations,
    effects: &mut Effects,
    name: &TopicName,
    patience: Duration,
) {
    let Some(entry) = registrations.directory.get(name.as_str()) else { return };
    effects.probe.push(ProbeRequest {
        name: name.clone(),
        revision: entry.revision,
        address: entry.info.address.clone(),
        owner: entry.owner,
        patience,
        // What listens now is the evidence for later, or what a REGISTER waits for.
        needs_new_connection: entry.listener.is_none() || patience < PATIENCE,
        listener: entry.listener,
    });
}
