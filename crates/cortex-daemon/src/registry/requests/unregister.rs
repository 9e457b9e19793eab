//! UNREGISTER.

use cortex_proto::{DiscoveryRequest, RequestExt};

use super::lookup::non_empty;
use crate::peer::{EndpointListener, PeerIdentity};
use crate::registry::answer::{Answer, ErrorCause};
use crate::registry::directory::access::{Access, describe_user};
use crate::registry::directory::topics::Entry;
use crate::registry::log::record::EventKind;
use crate::registry::registrations::Registrations;
use crate::registry::view::View;

pub(super) fn unregister(
    registrations: &mut Registrations,
    access: Access,
    peer: &PeerIdentity,
    request: &DiscoveryRequest,
) -> Answer {
    let Some(name) = topic_name(request) else {
        return Answer::error("Missing topic name in unregister request");
    };
    let Some(entry) = registrations.directory.find(name, View::Latest) else {
        return Answer::not_found(name);
    };
    if let Some(problem) = guard_mismatch(entry, request.ext.as_ref()) {
        return Answer::error(not_unregistered(name, &problem));
    }
    if !access.may_change(peer, &entry.owner) {
        let (owner, asker) = (describe_user(entry.owner.uid), describe_user(peer.uid));
        let problem = format!("it belongs to {owner}, and you are {asker}");
        let message = not_unregistered(name, &problem);
        return Answer::Error { message, cause: ErrorCause::Access };
    }
    if is_superseded(entry, peer) {
        return Answer::Unregistered { name: name.to_owned() };
    }
    let topic = entry.info.name.clone();
    registrations.remove(&topic, EventKind::Unregistered);
    Answer::Unregistered { name: name.to_owned() }
}

/// Whether an UNREGISTER comes from a former owner: another process of its node has registered the
/// topic since. Only the process that serves the endpoint can still remove it.
fn is_superseded(entry: &Entry, peer: &PeerIdentity) -> bool {
    let Some(process) = peer.process else { return false };
    entry.superseded.contains(&process)
        && entry.listener != Some(EndpointListener::Process(process))
}

/// The answer when the store cannot keep the removal.
pub(super) fn not_stored(request: &DiscoveryRequest, problem: &str) -> Answer {
    let message = not_unregistered(topic_name(request).unwrap_or_default(), problem);
    Answer::Error { message, cause: ErrorCause::Store }
}

fn not_unregistered(name: &str, problem: &str) -> String {
    format!("Topic {name} is not unregistered: {problem}")
}

fn topic_name(request: &DiscoveryRequest) -> Option<&str> {
    let in_info = || request.topic_info.as_ref().map(|info| info.name.as_str());
    non_empty(request.topic_name.as_deref()).or_else(in_info)
}

/// The condition of an UNREGISTER that the topic does not meet.
fn guard_mismatch(entry: &Entry, ext: Option<&RequestExt>) -> Option<String> {
    let ext = ext?;
    if let Some(node) = &ext.publisher_node
        && *node != entry.info.publisher_node
    {
        let present = &entry.info.publisher_node;
        return Some(format!("it is registered by {present}, not by {node}"));
    }
    if let Some(revision) = ext.revision
        && revision != entry.revision
    {
        return Some(format!("it is at revision {}, not at {revision}", entry.revision));
    }
    None
}
