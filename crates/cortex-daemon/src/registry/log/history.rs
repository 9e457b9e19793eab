//! The last events, so that a watch can continue where it stopped.

use std::collections::VecDeque;

use cortex_proto::TopicName;

use super::record::Event;

/// Events without a gap, up to the last revision.
///
/// The history takes the events of a batch before they are stored. Only [`trim`](Self::trim)
/// forgets old ones, so that [`pop`](Self::pop) can roll back a batch without a loss.
#[derive(Debug)]
pub(in crate::registry) struct History {
    max_events: usize,
    events: VecDeque<(TopicName, Event)>,
    /// The revision of the last event.
    last: u64,
}

impl History {
    /// A history of at most `max_events` events: of the given ones the last that lead to `revision`
    /// without a gap.
    pub(super) fn new(max_events: usize, events: Vec<(TopicName, Event)>, revision: u64) -> Self {
        let mut history = Self { max_events, events: VecDeque::new(), last: revision };
        let mut wanted = revision;
        for (name, event) in events.into_iter().rev() {
            if event.revision != wanted || history.events.len() == max_events {
                break;
            }
            wanted = wanted.saturating_sub(1);
            history.events.push_front((name, event));
        }
        history
    }

    pub(in crate::registry) fn len(&self) -> usize {
        self.events.len()
    }

    /// Adds the event of the next revision.
    pub(super) fn push(&mut self, name: TopicName, event: Event) {
        self.last = event.revision;
        self.events.push_back((name, event));
    }

    /// Takes the last event back.
    pub(super) fn pop(&mut self) {
        self.last = self.last.saturating_sub(1);
        self.events.pop_back();
    }

    /// Forgets the oldest events beyond the maximum. The last `uncommitted` ones do not count.
    pub(super) fn trim(&mut self, uncommitted: usize) {
        let beyond = self.events.len().saturating_sub(self.max_events.saturating_add(uncommitted));
        self.events.drain(..beyond);
    }

    /// Forgets all events but the last `kept`.
    pub(super) fn keep_last(&mut self, kept: usize) {
        let forgotten = self.events.len().saturating_sub(kept);
        self.events.drain(..forgotten);
    }

    /// The event that made a revision, if the history holds it.
    pub(in crate::registry) fn event(&self, revision: u64) -> Option<&(TopicName, Event)> {
        self.events.get(self.index_after(revision)?.checked_sub(1)?)
    }

    /// The events after the revision `since`, up to the revision `until`. `None` when the history
    /// does not hold all of them, or when `since` lies ahead.
    pub(in crate::registry) fn between(
        &self,
        since: u64,
        until: u64,
    ) -> Option<impl DoubleEndedIterator<Item = &(TopicName, Event)>> {
        let (start, end) = (self.index_after(since)?, self.index_after(until)?);
        (start <= end).then(|| self.events.range(start..end))
    }

    /// The place behind the event of a revision.
    fn index_after(&self, revision: u64) -> Option<usize> {
        let behind = usize::try_from(self.last.checked_sub(revision)?).ok()?;
        self.events.len().checked_sub(behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::EventKind;

    fn event(revision: u64) -> (TopicName, Event) {
        let event = Event { revision, kind: EventKind::Updated, packed: [].into() };
        (TopicName::new("/x").unwrap(), event)
    }

    fn revisions(history: &History, since: u64, until: u64) -> Option<Vec<u64>> {
        Some(history.between(since, until)?.map(|(_, event)| event.revision).collect())
    }

    #[test]
    fn the_events_after_a_revision_or_none_when_some_are_forgotten() {
        let history = History::new(3, [5, 6, 7, 8].map(event).into(), 8);
        assert_eq!(revisions(&history, 8, 8), Some(vec![]));
        assert_eq!(revisions(&history, 7, 8), Some(vec![8]));
        assert_eq!(revisions(&history, 5, 8), Some(vec![6, 7, 8]));
        assert_eq!(revisions(&history, 5, 7), Some(vec![6, 7]), "8 is not committed yet");
        assert_eq!(revisions(&history, 4, 8), None, "5 is forgotten");
        assert_eq!(revisions(&history, 9, 8), None, "that lies ahead");
        assert_eq!(revisions(&history, 8, 7), None, "so does that");
    }

    #[test]
    fn an_event_is_found_by_its_revision() {
        let history = History::new(2, [5, 6, 7].map(event).into(), 7);
        let found = |revision| history.event(revision).map(|(_, event)| event.revision);
        assert_eq!([5, 6, 7, 8].map(found), [None, Some(6), Some(7), None]);
    }

    #[test]
    fn events_before_a_gap_are_not_taken() {
        assert_eq!(History::new(9, [5, 6, 8].map(event).into(), 8).len(), 1);
        assert_eq!(History::new(9, [5, 6, 7].map(event).into(), 8).len(), 0);
        assert_eq!(History::new(0, [8].map(event).into(), 8).len(), 0);
    }

    #[test]
    fn an_event_that_is_taken_back_has_displaced_none() {
        let mut history = History::new(2, [1, 2].map(event).into(), 2);
        let (name, next) = event(3);
        history.push(name, next);
        history.pop();
        assert_eq!(revisions(&history, 0, 2), Some(vec![1, 2]));
        let (name, next) = event(3);
        history.push(name, next);
        history.trim(1);
        assert_eq!(revisions(&history, 0, 2), Some(vec![1, 2]), "3 can still be taken back");
        history.trim(0);
        assert_eq!(revisions(&history, 1, 3), Some(vec![2, 3]));
        assert_eq!(revisions(&history, 0, 3), None);
        history.keep_last(1);
        assert_eq!((revisions(&history, 1, 3), revisions(&history, 2, 3)), (None, Some(vec![3])));
    }
}
