//! The LISTs that all waits and watches of a client share while its daemon is a legacy daemon.

use std::collections::BTreeMap;
use std::mem;
use std::time::{Duration, Instant};

use cortex_proto::{DiscoveryRequest, RequestExt};

use super::Action;
use super::request::Query;

/// The operations that wait for the next LIST, and until when the client must send it.
#[derive(Debug)]
pub(crate) struct ListPoll {
    answer_timeout: Duration,
    due: BTreeMap<u64, Instant>,
    /// The subscribers of the LIST under way.
    asking: Vec<u64>,
}

impl ListPoll {
    pub(crate) fn new(answer_timeout: Duration) -> Self {
        Self { answer_timeout, due: BTreeMap::new(), asking: Vec::new() }
    }

    /// The subscriber wants the outcome of a LIST that is sent from now on, at `due` at the latest.
    pub(crate) fn subscribe(&mut self, subscriber: u64, due: Instant) {
        if !self.asking.contains(&subscriber) {
            self.due.insert(subscriber, due);
        }
    }

    pub(crate) fn unsubscribe(&mut self, subscriber: u64) {
        self.due.remove(&subscriber);
        self.asking.retain(|asking| *asking != subscriber);
    }

    pub(crate) fn next_action(&mut self, now: Instant) -> Action {
        match self.due.values().min() {
            Some(due) if *due <= now => {
                self.asking.extend(mem::take(&mut self.due).into_keys());
                let request = DiscoveryRequest::list().with_ext(RequestExt::default());
                Action::Send(Query::immediate(&request, self.answer_timeout))
            }
            due => Action::Wait(due.copied()),
        }
    }

    /// The LIST has an outcome: it belongs to these subscribers.
    pub(crate) fn take_subscribers(&mut self) -> Vec<u64> {
        mem::take(&mut self.asking)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_list_serves_all_who_subscribed_before_it() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut poll = ListPoll::new(Duration::from_secs(1));
        assert_eq!(poll.next_action(start), Action::Wait(None));
        poll.subscribe(1, at(500));
        poll.subscribe(2, at(800));
        poll.subscribe(3, at(600));
        poll.unsubscribe(3);
        assert_eq!(poll.next_action(at(499)), Action::Wait(Some(at(500))));
        assert!(matches!(poll.next_action(at(500)), Action::Send(_)));
        poll.subscribe(4, at(900));
        poll.subscribe(2, at(900));
        assert_eq!(poll.take_subscribers(), [1, 2]);
        assert_eq!(poll.next_action(at(501)), Action::Wait(Some(at(900))));
        assert!(matches!(poll.next_action(at(900)), Action::Send(_)));
        poll.unsubscribe(4);
        assert_eq!(poll.take_subscribers(), []);
    }
}
