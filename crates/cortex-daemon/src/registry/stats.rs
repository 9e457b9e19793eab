//! STATS: counters and gauges by name.

use std::collections::BTreeMap;

use cortex_proto::ResponseExt;

use super::requests::Outcome;
use super::{Registry, Timestamp};

impl Registry {
    pub(super) fn stats(&self, now: Timestamp) -> Outcome {
        let (waits, watches) = self.waiters.count();
        let counters = self.counters;
        let own = [
            ("waits", waits as u64),
            ("watches", watches as u64),
            ("contests", self.pending_registers.len() as u64),
            ("sessions", self.sessions.len() as u64),
            ("history", self.history.len() as u64),
            ("registered", counters.registered),
            ("updated", counters.updated),
            ("unregistered", counters.unregistered),
            ("evicted", counters.evicted),
            ("unreadable", counters.unreadable),
            ("over_limit", counters.over_limit),
            ("no_access", counters.no_access),
            ("not_stored", counters.not_stored),
        ];
        let counts: BTreeMap<_, _> = own
            .into_iter()
            .chain(self.outside.iter().copied())
            .map(|(name, count)| (name.to_owned(), count))
            .collect();
        let ext = ResponseExt {
            revision: Some(self.revision),
            uptime_ms: Some(self.uptime_ms(now)),
            topics: Some(self.topics.len() as u64),
            counts,
            ..ResponseExt::default()
        };
        Outcome { ext, ..Outcome::ok("") }
    }
}
