//! The log lines about changed topics and refused requests.

use crate::registry::{Change, EventKind, Refusal};

pub(crate) fn change(change: &Change) {
    let Change { revision, kind, info, owner } = change;
    let topic = info.name.as_str();
    let node = info.publisher_node.as_str();
    let (uid, pid) = (owner.uid, owner.process.map(|process| process.pid));
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
    let pid = refusal.peer.process.map(|process| process.pid);
    tracing::warn!(uid = refusal.peer.uid, pid, suppressed, "refused: {}", refusal.message);
}
