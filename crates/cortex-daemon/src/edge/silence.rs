//! When the daemon looks for silent peers: those that have announced a time to live in a heartbeat,
//! and from which nothing has come since.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use crate::peer::ConnectionId;

/// The time of the next check of each connection with a time to live.
///
/// A connection's time to live begins anew with everything that comes. Its check stays where it is
/// and finds that out when it is due, so a busy connection costs no change of the agenda.
#[derive(Debug, Default)]
pub(super) struct SilenceChecks {
    agenda: BTreeSet<(Instant, ConnectionId)>,
    by_id: HashMap<ConnectionId, Instant>,
}

impl SilenceChecks {
    /// Checks the connection at this time, or earlier when a check is due earlier already.
    pub(super) fn check_by(&mut self, id: ConnectionId, due: Instant) {
        let present = self.by_id.get(&id).copied();
        if present.is_some_and(|present| present <= due) {
            return;
        }
        self.remove(id);
        self.by_id.insert(id, due);
        self.agenda.insert((due, id));
    }

    /// Takes the next connection whose check is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<ConnectionId> {
        let (due, id) = self.agenda.first().copied()?;
        if due > now {
            return None;
        }
        self.remove(id);
        Some(id)
    }

    /// Forgets a connection.
    pub(super) fn remove(&mut self, id: ConnectionId) {
        if let Some(due) = self.by_id.remove(&id) {
            self.agenda.remove(&(due, id));
        }
    }

    /// When the next check is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.agenda.first().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_connection_has_one_check_which_only_an_earlier_one_replaces() {
        let (mut checks, start) = (SilenceChecks::default(), super::super::clock::now());
        let at = |ms| start + Duration::from_millis(ms);
        let [a, b] = [ConnectionId(1), ConnectionId(2)];
        checks.check_by(a, at(500));
        checks.check_by(b, at(300));
        checks.check_by(a, at(900));
        assert_eq!(checks.next_due(), Some(at(300)));
        assert_eq!(checks.take_due(at(299)), None);
        assert_eq!(checks.take_due(at(300)), Some(b));
        checks.check_by(a, at(400));
        assert_eq!(checks.next_due(), Some(at(400)));
        assert_eq!(checks.take_due(at(1000)), Some(a));
        assert_eq!((checks.take_due(at(1000)), checks.next_due()), (None, None));

        checks.check_by(a, at(500));
        checks.remove(a);
        checks.remove(b);
        assert_eq!(checks.take_due(at(1000)), None);
    }
}
