//! STATS.

use crate::registry::answer::Answer;
use crate::registry::counters::RegistryCounters;
use crate::registry::registrations::Registrations;
use crate::registry::reply::Stats;
use crate::registry::subscriptions::Subscriptions;
use crate::registry::view::View;

pub(super) fn stats(
    registrations: &Registrations,
    view: View,
    subscriptions: &Subscriptions,
    counters: &RegistryCounters,
    uptime_ms: u64,
) -> Answer {
    let (waits, watches) = subscriptions.counts();
    let Registrations { directory, liveness, log } = registrations;
    Answer::Stats(Stats {
        revision: log.position(view).revision,
        uptime_ms,
        topics: directory.count(view) as u64,
        counts: vec![
            ("waits", waits as u64),
            ("watches", watches as u64),
            // The name is older than the term "pending register", and clients know it.
            ("contests", liveness.pending.len() as u64),
            ("sessions", directory.session_count() as u64),
            ("history", log.history().len() as u64),
            ("registered", counters.registered),
            ("updated", counters.updated),
            ("unregistered", counters.unregistered),
            ("evicted", counters.evicted),
            ("unreadable", counters.unreadable),
            ("over_limit", counters.over_limit),
            ("no_access", counters.no_access),
            ("not_stored", counters.not_stored),
        ],
    })
}
