//! Requests that were read and not dispatched yet, in a queue for each connection. The connections
//! take turns, so that a connection with costly requests does not keep the others waiting.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use crate::peer::ConnectionId;
use crate::registry::{PeerRequest, WaitingRequests};

/// The deferred requests, and before each can have come. No connection's queue is empty.
#[derive(Default)]
pub(crate) struct DeferredQueue {
    queues: HashMap<ConnectionId, VecDeque<(Instant, PeerRequest)>>,
    /// The order of turns: each connection with a queue is in it once.
    turns: VecDeque<ConnectionId>,
}

impl DeferredQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether requests of this connection are deferred.
    pub(crate) fn contains(&self, connection: ConnectionId) -> bool {
        self.queues.contains_key(&connection)
    }

    /// Whether the first request of a connection is such a one.
    pub(crate) fn any(&self, is_wanted: impl Fn(&PeerRequest) -> bool) -> bool {
        self.queues.values().filter_map(VecDeque::front).any(|(_, request)| is_wanted(request))
    }

    /// Notes the users whose requests are deferred.
    pub(crate) fn note_waiting(&self, waiting: &mut WaitingRequests) {
        for (since, request) in self.queues.values().filter_map(VecDeque::front) {
            waiting.add(request.peer.uid, *since);
        }
    }

    /// Adds a request, which has not come before `since`, behind those of its connection.
    pub(crate) fn push(&mut self, request: PeerRequest, since: Instant) {
        let connection = request.reply_to.connection;
        let queue = self.queues.entry(connection).or_default();
        if queue.is_empty() {
            self.turns.push_back(connection);
        }
        queue.push_back((since, request));
    }

    /// Takes the first request of the next connection whose first request is ready.
    pub(crate) fn next(&mut self, is_ready: impl Fn(&PeerRequest) -> bool) -> Option<PeerRequest> {
        for _ in 0..self.turns.len() {
            let connection = self.turns.pop_front()?;
            let queue = self.queues.get_mut(&connection)?;
            if !queue.front().is_some_and(|(_, request)| is_ready(request)) {
                self.turns.push_back(connection);
                continue;
            }
            let request = queue.pop_front().map(|(_, request)| request);
            if queue.is_empty() {
                self.queues.remove(&connection);
            } else {
                self.turns.push_back(connection);
            }
            return request;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use cortex_proto::DiscoveryRequest;

    use super::*;
    use crate::peer::{PeerIdentity, ReplyTo};
    use crate::zmtp::Envelope;

    fn request(connection: usize, topic: &str) -> PeerRequest {
        PeerRequest {
            reply_to: ReplyTo {
                connection: ConnectionId(connection),
                envelope: Envelope::default(),
            },
            peer: PeerIdentity::default(),
            is_req: false,
            request: Ok(Box::new(DiscoveryRequest::lookup(topic))),
        }
    }

    fn summary(request: &PeerRequest) -> (usize, &str) {
        let topic = request.request.as_ref().unwrap().topic_name.as_deref().unwrap();
        (request.reply_to.connection.0, topic)
    }

    #[test]
    fn connections_take_turns_and_each_keeps_its_order() {
        let mut queue = DeferredQueue::default();
        let since = crate::edge::clock::now();
        for (connection, topic) in [(1, "a"), (1, "b"), (1, "c"), (2, "a"), (3, "a"), (2, "b")] {
            queue.push(request(connection, topic), since);
        }
        assert!(queue.contains(ConnectionId(3)) && !queue.contains(ConnectionId(4)));
        let mut taken = Vec::new();
        while let Some(request) =
            queue.next(|request| request.reply_to.connection != ConnectionId(2))
        {
            taken.push(request);
        }
        let taken: Vec<_> = taken.iter().map(summary).collect();
        assert_eq!(taken, [(1, "a"), (3, "a"), (1, "b"), (1, "c")]);
        assert!(queue.contains(ConnectionId(2)) && !queue.contains(ConnectionId(1)));
        assert!(!queue.is_empty() && queue.any(|request| summary(request) == (2, "a")));
        assert!(!queue.any(|request| summary(request) == (2, "b")), "it is not the first one");
        assert_eq!(queue.next(|_| true).as_ref().map(summary), Some((2, "a")));
        assert_eq!(queue.next(|_| true).as_ref().map(summary), Some((2, "b")));
        assert!(queue.is_empty() && queue.next(|_| true).is_none());
    }
}
