//! Replies to WATCH, for requests that are answered at once and for those that wake.

use std::collections::HashMap;
use std::sync::Arc;

use cortex_proto::{EncodedEvent, EncodedWatchExt, Since, TopicFilter, TopicName};

use super::waiters::{WatchSpec, passes};
use crate::registry::log::Log;
use crate::registry::reply::pack_watch;
use crate::registry::view::View;
use crate::shared_body::SHARED_BODY_BYTES;

/// After an event that makes a reply longer than this, in bytes, no other event follows.
const MAX_REPLY_BYTES: usize = 256 * 1024;
/// The cost of one topic or event without a filter, in steps of matching.
const VISIT_COST: usize = 16;
/// The most steps of matching for one request: about a quarter of a second.
pub(in crate::registry) const MAX_MATCH_COST: usize = 150_000_000;
/// The most bytes that waking takes after one commit, packed or copied. Later watches get no events:
/// they send their next request, and the daemon answers it in its turn.
const MAX_WAKE_BYTES: usize = 4 * 1024 * 1024;

/// The events that a reply to a watch holds.
#[derive(Debug)]
pub(in crate::registry) struct EventSelection {
    /// The position after which the daemon has looked.
    since: Since,
    revisions: Vec<u64>,
    /// The revision up to which the daemon has looked.
    pub(in crate::registry) until: u64,
    /// About how many bytes the events take.
    pub(in crate::registry) bytes: usize,
    /// About how many steps it took to find them.
    pub(in crate::registry) cost: usize,
}

impl EventSelection {
    pub(in crate::registry) fn is_empty(&self) -> bool {
        self.revisions.is_empty()
    }
}

/// Selects the events after `since` that a watch takes, as many as a reply holds. The daemon also
/// stops to look when that takes too many steps: the client sends its next request.
pub(in crate::registry) fn select_events(
    log: &Log,
    view: View,
    watch: &WatchSpec,
    since: u64,
) -> EventSelection {
    let WatchSpec { filter, limit } = watch;
    let Since { epoch, revision: until } = log.position(view);
    let mut selection = EventSelection {
        since: Since { epoch, revision: since },
        revisions: Vec::new(),
        until: since,
        bytes: 0,
        cost: 0,
    };
    for (name, event) in log.history().between(since, until).into_iter().flatten() {
        if selection.cost > MAX_MATCH_COST {
            return selection;
        }
        selection.cost += visit_cost(filter.as_deref(), name);
        if passes(filter.as_deref(), name) {
            if selection.revisions.len() == *limit || selection.bytes > MAX_REPLY_BYTES {
                selection.until = selection.revisions.last().copied().unwrap_or(since);
                return selection;
            }
            selection.bytes += name.as_str().len() + event.packed.len();
            selection.revisions.push(event.revision);
        }
        selection.until = event.revision;
    }
    selection
}

/// About how many steps it takes to match one topic or event.
pub(in crate::registry) fn visit_cost(filter: Option<&TopicFilter>, name: &TopicName) -> usize {
    VISIT_COST + filter.map_or(0, |filter| filter.match_cost(name.as_str().len()))
}

/// The reply with the selected events. When the history was lost since, it holds none: the client's
/// next request is one of another epoch, and gets a snapshot.
pub(in crate::registry) fn pack_events(log: &Log, selection: &EventSelection) -> Arc<[u8]> {
    let epoch = log.position(View::Committed).epoch;
    if epoch != selection.since.epoch {
        return pack_no_events(selection.since);
    }
    let event = |revision: &u64| {
        let (name, event) = log.history().event(*revision)?;
        Some(EncodedEvent {
            kind: event.kind.word(),
            revision: event.revision,
            topic_name: name.as_str(),
            topic_info: &event.packed,
            reason: event.kind.reason(),
        })
    };
    let events: Vec<_> = selection.revisions.iter().filter_map(event).collect();
    let revision = selection.until;
    let ext = EncodedWatchExt { epoch, revision, snapshot: None, events: Some(&events) };
    pack_watch(&[], &ext)
}

/// The reply that nothing has happened up to a position.
pub(in crate::registry) fn pack_no_events(position: Since) -> Arc<[u8]> {
    let Since { epoch, revision } = position;
    let ext = EncodedWatchExt { epoch, revision, snapshot: None, events: Some(&[]) };
    pack_watch(&[], &ext)
}

/// The replies to the watches that wake with a commit. Equal watches share a reply.
pub(in crate::registry) struct WakeReplies<'a> {
    log: &'a Log,
    /// The revision before the commit: the watches have seen everything up to it.
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
        let present = self.log.position(View::Committed);
        if self.bytes > MAX_WAKE_BYTES {
            let position = Since { revision: self.since, ..present };
            return Arc::clone(self.no_events.get_or_insert_with(|| pack_no_events(position)));
        }
        if let Some(body) = self.packed.get(&watch) {
            // Long bodies are shared, not copied.
            self.bytes += body.len().min(SHARED_BODY_BYTES);
            return Arc::clone(body);
        }
        let body =
            pack_events(self.log, &select_events(self.log, View::Committed, &watch, self.since));
        self.bytes += body.len();
        self.packed.insert(watch, Arc::clone(&body));
        body
    }
}
