//! The log lines about changed topics and refused requests.

use crate::peer::PeerIdentity;
use crate::registry::{Change, EventKind, NameConflict, Refusal};

pub(crate) fn change(change: &Change) {
    let Change { revision, kind, info, owner } = change;
    let topic = info.name.as_str();
    let node = info.publisher_node.as_str();
    let (uid, pid) = (owner.uid, pid(owner));
    match kind {
        EventKind::Registered | EventKind::Updated => tracing::info!(
            revision,
            topic,
            node,
            address = info.address,
            message_type = info.message_type,
            fingerprint = format_args!("{:#018x}", info.fingerprint),
            uid,
            pid,
            "{}",
            kind.word()
        ),
        EventKind::Unregistered => {
            tracing::info!(revision, topic, node, uid, pid, "{}", kind.word());
        }
        EventKind::Evicted(_) => {
            let reason = kind.reason();
            tracing::info!(revision, topic, node, uid, pid, reason, "{}", kind.word());
        }
    }
}

pub(crate) fn refusal(refusal: &Refusal, suppressed: u64) {
    let Refusal { peer, message } = refusal;
    tracing::warn!(uid = peer.uid, pid = pid(peer), suppressed, reason = message, "refused");
}

pub(crate) fn name_conflict(conflict: &NameConflict, suppressed: u64) {
    let NameConflict { topic, owner_node, owner, node, peer } = conflict;
    tracing::warn!(
        topic = topic.as_str(),
        owner = owner_node,
        owner_uid = owner.uid,
        owner_pid = pid(owner),
        node,
        uid = peer.uid,
        pid = pid(peer),
        suppressed,
        "refused a topic that another node owns"
    );
}

fn pid(peer: &PeerIdentity) -> Option<u32> {
    peer.process.map(|process| process.pid)
}
