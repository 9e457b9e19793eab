//! Requests that were read and not dispatched yet, in a queue for each connection. The connections
//! take turns, so that a connection with costly requests does not keep the others waiting.

use std::collections::{HashMap, VecDeque};

use crate::edge::connection::Received;
use crate::peer::ConnectionId;

/// The deferred requests. No connection's queue is empty.
#[derive(Default)]
pub(crate) struct DeferredQueue {
    queues: HashMap<ConnectionId, VecDeque<Received>>,
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

    /// Adds a request behind those of its connection.
    pub(crate) fn push(&mut self, request: Received) {
        let connection = request.from.connection;
        let queue = self.queues.entry(connection).or_default();
        if queue.is_empty() {
            self.turns.push_back(connection);
        }
        queue.push_back(request);
    }

    /// Takes the first request of the next connection that is ready.
    pub(crate) fn next(&mut self, is_ready: impl Fn(ConnectionId) -> bool) -> Option<Received> {
        for _ in 0..self.turns.len() {
            let connection = self.turns.pop_front()?;
            if !is_ready(connection) {
                self.turns.push_back(connection);
                continue;
            }
            let queue = self.queues.get_mut(&connection)?;
            let request = queue.pop_front();
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
    use super::*;
    use crate::edge::credentials::Credentials;
    use crate::peer::ReplyTo;
    use crate::zmtp::{Body, Envelope};

    fn request(connection: usize, number: u8) -> Received {
        Received {
            from: ReplyTo { connection: ConnectionId(connection), envelope: Envelope::default() },
            peer: Credentials::default(),
            is_req: false,
            body: Body::Whole(vec![number]),
        }
    }

    fn summary(request: &Received) -> (usize, &Body) {
        (request.from.connection.0, &request.body)
    }

    #[test]
    fn connections_take_turns_and_each_keeps_its_order() {
        let mut queue = DeferredQueue::default();
        for (connection, number) in [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (2, 2)] {
            queue.push(request(connection, number));
        }
        assert!(queue.contains(ConnectionId(3)) && !queue.contains(ConnectionId(4)));
        let mut taken = Vec::new();
        while let Some(request) = queue.next(|connection| connection != ConnectionId(2)) {
            taken.push(request);
        }
        let taken: Vec<_> = taken.iter().map(summary).collect();
        let body = |number| Body::Whole(vec![number]);
        assert_eq!(taken, [(1, &body(1)), (3, &body(1)), (1, &body(2)), (1, &body(3))]);
        assert!(
            queue.contains(ConnectionId(2))
                && !queue.contains(ConnectionId(1))
                && !queue.is_empty()
        );
        assert_eq!(queue.next(|_| true).as_ref().map(summary), Some((2, &body(1))));
        assert_eq!(queue.next(|_| true).as_ref().map(summary), Some((2, &body(2))));
        assert!(queue.is_empty() && queue.next(|_| true).is_none());
    }
}
