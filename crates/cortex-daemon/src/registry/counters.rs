//! The registry's counters of changes and errors, which STATS returns.

use super::answer::{Answer, ErrorCause};
use super::log::record::EventKind;

/// Totals since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegistryCounters {
    /// Requests that the daemon could not decode, among them those that were too long.
    pub unreadable: u64,
    /// Requests refused because a limit was reached.
    pub over_limit: u64,
    /// Requests refused because the peer had no right to them.
    pub no_access: u64,
    /// Topics registered for the first time.
    pub registered: u64,
    /// Topics that were registered again and have changed.
    pub updated: u64,
    /// Topics that a peer unregistered.
    pub unregistered: u64,
    /// Topics that the daemon removed.
    pub evicted: u64,
    /// Batches that the store could not keep.
    pub not_stored: u64,
}

impl RegistryCounters {
    /// Counts a refusal, once for each request.
    pub(super) fn count_answer(&mut self, answer: &Answer) {
        if let Answer::Error { cause, .. } = answer {
            match cause {
                ErrorCause::Limit => self.over_limit += 1,
                ErrorCause::Access => self.no_access += 1,
                ErrorCause::Request | ErrorCause::Store => {}
            }
        }
    }

    /// Counts a change.
    pub(super) fn count(&mut self, kind: EventKind) {
        let counter = match kind {
            EventKind::Registered => &mut self.registered,
            EventKind::Updated => &mut self.updated,
            EventKind::Unregistered => &mut self.unregistered,
            EventKind::Evicted(_) => &mut self.evicted,
        };
        *counter += 1;
    }
}
