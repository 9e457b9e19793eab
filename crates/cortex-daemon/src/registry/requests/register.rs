//! REGISTER.

use std::sync::Arc;
use std::time::Instant;

use cortex_proto::{DiscoveryRequest, TopicInfo, TopicName};

use super::decision::Decision;
use super::requested_hold::requested_hold;
use crate::peer::PeerIdentity;
use crate::registry::answer::{Answer, ErrorCause};
use crate::registry::directory::Directory;
use crate::registry::directory::access::describe_user;
use crate::registry::directory::topics::{EndpointFinding, Entry};
use crate::registry::input::Timestamp;
use crate::registry::log::record::{EventKind, EvictionReason, Hold};
use crate::registry::registrations::Registrations;
use crate::registry::settings::{Limits, Settings};

/// What a REGISTER does that would be refused for the sake of an owner that may be dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) enum OnDoubt {
    /// It waits until the daemon has judged the owner.
    Wait,
    /// It is refused.
    Refuse,
}

pub(super) fn register(
    registrations: &mut Registrations,
    settings: &Settings,
    peer: &PeerIdentity,
    request: &DiscoveryRequest,
    on_doubt: OnDoubt,
    now: Timestamp,
) -> Decision {
    let Some(info) = &request.topic_info else {
        return Answer::error("Missing topic_info in register request").into();
    };
    if let Err(problem) = check_limits(&registrations.directory, settings.limits, info) {
        return not_registered(info, &problem, ErrorCause::Limit).into();
    }
    let hold = match requested_hold(request.ext.as_ref()) {
        Ok(hold) => hold,
        Err(problem) => return not_registered(info, &problem, ErrorCause::Request).into(),
    };
    free_dead_name(registrations, &info.name, now.instant);
    let directory = &mut registrations.directory;
    if let Some(existing) = directory.get(info.name.as_str())
        && let Some(refusal) = refusal(existing, settings, peer, info)
    {
        // A session or a static topic does not depend on its owner's process.
        if on_doubt == OnDoubt::Wait && existing.hold == Hold::Process {
            let (name, revision) = (info.name.clone(), existing.revision);
            return Decision::Pending { name, revision };
        }
        return refusal.into();
    }
    let entry = Entry {
        info: Arc::new(info.clone()),
        packed: info.to_bytes().into(),
        order: 0,
        revision: 0,
        changed_ms: now.unix_ms,
        owner: *peer,
        hold,
        listener: None,
        found_alive: false,
        is_orphaned: false,
        dead: None,
        registered_ticks: now.boot_ticks,
        is_restored: false,
        endpoint: EndpointFinding::default(),
        superseded: Vec::new(),
    };
    // A REGISTER renews its session, also when the store cannot keep it.
    if let Some((key, _)) = entry.session() {
        directory.renew_session(&key, now.instant);
    }
    if !is_registered(directory, &entry) {
        registrations.register(entry, now.instant);
    } else if directory.needs_probes(&entry.hold, entry.owner.process) {
        directory.forget_listener(&info.name);
        registrations.liveness.reschedule(&info.name, now.instant);
    }
    registered(&registrations.directory, info).into()
}

/// The answer when the store cannot keep the registration.
pub(super) fn not_stored(request: &DiscoveryRequest, problem: &str) -> Answer {
    match &request.topic_info {
        Some(info) => not_registered(info, problem, ErrorCause::Store),
        None => Answer::Error { message: problem.to_owned(), cause: ErrorCause::Store },
    }
}

fn not_registered(info: &TopicInfo, problem: &str, cause: ErrorCause) -> Answer {
    let message = format!("Topic {} is not registered: {problem}", info.name);
    Answer::Error { message, cause }
}

fn check_limits(directory: &Directory, limits: Limits, info: &TopicInfo) -> Result<(), String> {
    let max = limits.field_bytes;
    let fields = [
        ("address", &info.address),
        ("message_type", &info.message_type),
        ("publisher_node", &info.publisher_node),
    ];
    if let Some((field, value)) = fields.into_iter().find(|(_, value)| value.len() > max) {
        let length = value.len();
        return Err(format!("its {field} has {length} bytes, at most {max} are allowed"));
    }
    let max = limits.topics;
    if directory.len() >= max && directory.get(info.name.as_str()).is_none() {
        return Err(format!("this daemon holds {max} topics and takes no more"));
    }
    Ok(())
}

/// Why a peer may not have a topic that is registered already.
fn refusal(
    existing: &Entry,
    settings: &Settings,
    peer: &PeerIdentity,
    info: &TopicInfo,
) -> Option<Answer> {
    let name = &info.name;
    if existing.info.publisher_node != info.publisher_node {
        let node = existing.info.publisher_node.clone();
        return Some(Answer::AlreadyExists { name: name.clone(), node, owner: existing.owner });
    }
    if settings.access.may_change(peer, &existing.owner) {
        return None;
    }
    let (owner, asker) = (describe_user(existing.owner.uid), describe_user(peer.uid));
    let problem = format!("it belongs to {owner}, and you are {asker}");
    Some(not_registered(info, &problem, ErrorCause::Access))
}

/// Evicts a topic that keeps its name no longer: one that is dead and could not be removed from the
/// store yet, or one whose endpoint is unreachable.
fn free_dead_name(registrations: &mut Registrations, name: &TopicName, now: Instant) {
    let Some(entry) = registrations.directory.get(name.as_str()) else { return };
    let is_unreachable = registrations.liveness.is_unreachable(name, now);
    let unreachable = is_unreachable.then_some(EvictionReason::EndpointDead);
    if let Some(reason) = entry.dead.or(unreachable) {
        registrations.remove(name, EventKind::Evicted(reason));
    }
}

/// Whether the topic is registered exactly like this already.
fn is_registered(directory: &Directory, entry: &Entry) -> bool {
    directory.get(entry.info.name.as_str()).is_some_and(|existing| {
        existing.owner == entry.owner && existing.hold == entry.hold && existing.info == entry.info
    })
}

fn registered(directory: &Directory, info: &TopicInfo) -> Answer {
    let entry = directory.get(info.name.as_str());
    Answer::Registered {
        name: info.name.clone(),
        revision: entry.map_or(0, |entry| entry.revision),
        lease_ms: entry.and_then(|entry| directory.lease_of(entry)),
    }
}
