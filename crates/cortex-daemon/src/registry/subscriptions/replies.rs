//! Replies to WATCH, for requests that are answered at once and for those that wake.

use std::collections::HashMap;
use std::sync::Arc;

use cortex_proto::{EncodedEvent, EncodedWatchExt, Since};

use super::waiters::{WatchSpec, passes};
use crate::registry::log::Log;
use crate::registry::reply::pack_watch;
use crate::shared_body::SHARED_BODY_BYTES;

/// After an event that makes a reply longer than this, in bytes, no other event follows.
pub(in crate::registry) const MAX_REPLY_BYTES: usize = 256 * 1024;
/// The most bytes that waking takes in one batch, packed or copied. Later watches get no events:
/// they send their next request, and the daemon answers it in its turn.
const MAX_WAKE_BYTES: usize = 4 * 1024 * 1024;

/// The reply with the events after `since`, up to `until`, that a watch takes.
pub(in crate::registry) fn pack_events(
    log: &Log,
    watch: &WatchSpec,
    since: u64,
    until: u64,
) -> Arc<[u8]> {
    let WatchSpec { filter, limit } = watch;
    let (mut bytes, mut is_cut) = (0, false);
    let mut events = Vec::new();
    let Since { epoch, revision: present } = log.position();
    for (name, event) in log.history().since(since, present).into_iter().flatten() {
        if event.revision > until {
            break;
        }
        if !passes(filter.as_deref(), name) {
            continue;
        }
        if events.len() == *limit || bytes > MAX_REPLY_BYTES {
            is_cut = true;
            break;
        }
        bytes += name.as_str().len() + event.packed.len();
        events.push(EncodedEvent {
            kind: event.kind.word(),
            revision: event.revision,
            topic_name: name.as_str(),
            topic_info: &event.packed,
            reason: event.kind.reason(),
        });
    }
    // The reply covers every event, unless it is cut.
    let revision = match events.last() {
        Some(last) if is_cut => last.revision,
        Some(_) | None => until,
    };
    let ext = EncodedWatchExt { epoch, revision, snapshot: None, events: Some(&events) };
    pack_watch(&[], &ext)
}

/// The reply that nothing has happened up to a position.
pub(in crate::registry) fn pack_no_events(position: Since) -> Arc<[u8]> {
    let Since { epoch, revision } = position;
    let ext = EncodedWatchExt { epoch, revision, snapshot: None, events: Some(&[]) };
    pack_watch(&[], &ext)
}

/// The revision of the first event after `since` that a watch takes.
pub(in crate::registry) fn first_event(log: &Log, watch: &WatchSpec, since: u64) -> Option<u64> {
    let mut events = log.history().since(since, log.position().revision)?;
    let first = events.find(|(name, _)| passes(watch.filter.as_deref(), name))?;
    Some(first.1.revision)
}

/// The replies to the watches that wake at the end of a batch. Equal watches share a reply.
pub(in crate::registry) struct WakeReplies<'a> {
    log: &'a Log,
    /// The revision before the batch: the watches have seen everything up to it.
    since: u64,
    packed: HashMap<WatchSpec, Arc<[u8]>>,
    no_events: Option<Arc<[u8]>>,
    bytes: usize,
}

impl<'a> WakeReplies<'a> {
    pub(in crate::registry) fn new(log: &'a Log, since: u64) -> Self {
        Self { log, since, packed: HashMap::new(), no_events: None, bytes: 0 }
    }

    /// The reply to a watch.
    pub(in crate::registry) fn reply(&mut self, watch: WatchSpec) -> Arc<[u8]> {
        let present = self.log.position();
        if self.bytes > MAX_WAKE_BYTES {
            let position = Since { revision: self.since, ..present };
            return Arc::clone(self.no_events.get_or_insert_with(|| pack_no_events(position)));
        }
        if let Some(body) = self.packed.get(&watch) {
            // Long bodies are shared, not copied.
            self.bytes += body.len().min(SHARED_BODY_BYTES);
            return Arc::clone(body);
        }
        let body = pack_events(self.log, &watch, self.since, present.revision);
        self.bytes += body.len();
        self.packed.insert(watch, Arc::clone(&body));
        body
    }
}
