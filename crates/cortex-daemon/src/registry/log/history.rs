//! The last events, so that a watch can go on where it was.

use std::collections::VecDeque;

use cortex_proto::TopicName;

use crate::registry::Event;

/// Events without a gap, up to the present revision.
///
/// As the topics, it first takes what a batch stages; only [`trim`](Self::trim) forgets.
#[derive(Debug)]
pub(in crate::registry) struct History {
    most: usize,
    events: VecDeque<(TopicName, Event)>,
    name_bytes: usize,
}

impl History {
    /// A history of at most `most` events. Of those that are given the last ones count that lead to
    /// `revision` without a gap.
    pub(in crate::registry) fn new(
        most: usize,
        events: Vec<(TopicName, Event)>,
        revision: u64,
    ) -> Self {
        let mut history = Self { most, events: VecDeque::new(), name_bytes: 0 };
        let mut wanted = revision;
        for (name, event) in events.into_iter().rev() {
            if event.revision != wanted || history.events.len() == most {
                break;
            }
            wanted = wanted.saturating_sub(1);
            history.name_bytes += name.as_str().len();
            history.events.push_front((name, event));
        }
        history
    }

    pub(in crate::registry) fn len(&self) -> usize {
        self.events.len()
    }

    /// The bytes of all events' topic names.
    pub(in crate::registry) fn name_bytes(&self) -> usize {
        self.name_bytes
    }

    /// Adds the event of the next revision.
    pub(in crate::registry) fn push(&mut self, name: TopicName, event: Event) {
        self.name_bytes += name.as_str().len();
        self.events.push_back((name, event));
    }

    /// Takes the last event back.
    pub(in crate::registry) fn pop(&mut self) {
        if let Some((name, _)) = self.events.pop_back() {
            self.name_bytes -= name.as_str().len();
        }
    }

    /// Forgets the oldest events beyond the most.
    pub(in crate::registry) fn trim(&mut self) {
        let beyond = self.events.len().saturating_sub(self.most);
        for (name, _) in self.events.drain(..beyond) {
            self.name_bytes -= name.as_str().len();
        }
    }

    pub(in crate::registry) fn clear(&mut self) {
        self.events.clear();
        self.name_bytes = 0;
    }

    /// The events behind a revision, up to the present one. `None` when not all of them are known,
    /// or that revision is still to come.
    pub(in crate::registry) fn since(
        &self,
        revision: u64,
        present: u64,
    ) -> Option<impl DoubleEndedIterator<Item = &(TopicName, Event)>> {
        let behind = usize::try_from(present.checked_sub(revision)?).ok()?;
        let start = self.events.len().checked_sub(behind)?;
        Some(self.events.range(start..))
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

    fn revisions(history: &History, since: u64, present: u64) -> Option<Vec<u64>> {
        Some(history.since(since, present)?.map(|(_, event)| event.revision).collect())
    }

    #[test]
    fn it_gives_what_is_behind_a_revision_or_tells_that_it_cannot() {
        let history = History::new(3, [5, 6, 7, 8].map(event).into(), 8);
        assert_eq!(revisions(&history, 8, 8), Some(vec![]));
        assert_eq!(revisions(&history, 7, 8), Some(vec![8]));
        assert_eq!(revisions(&history, 5, 8), Some(vec![6, 7, 8]));
        assert_eq!(revisions(&history, 4, 8), None, "5 is forgotten");
        assert_eq!(revisions(&history, 9, 8), None, "that is still to come");
    }

    #[test]
    fn what_does_not_lead_to_the_present_is_not_taken() {
        assert_eq!(History::new(9, [5, 6, 8].map(event).into(), 8).len(), 1);
        assert_eq!(History::new(9, [5, 6, 7].map(event).into(), 8).len(), 0);
        assert_eq!(History::new(0, [8].map(event).into(), 8).len(), 0);
    }

    #[test]
    fn what_is_taken_back_has_pushed_nothing_out() {
        let mut history = History::new(2, [1, 2].map(event).into(), 2);
        let (name, next) = event(3);
        history.push(name, next);
        history.pop();
        assert_eq!(revisions(&history, 0, 2), Some(vec![1, 2]));
        let (name, next) = event(3);
        history.push(name, next);
        history.trim();
        assert_eq!(revisions(&history, 1, 3), Some(vec![2, 3]));
        assert_eq!(revisions(&history, 0, 3), None);
        assert_eq!(history.name_bytes(), 4);
    }
}
