//! Requests that were read and are not heard yet: a row for each connection. The connections take
//! turns, so that nobody who asks for much work keeps the others waiting.

use std::collections::{HashMap, VecDeque};

use crate::edge::connection::Received;
use crate::peer::ConnectionId;

/// The rows, none of which is empty.
#[derive(Default)]
pub(crate) struct Held {
    rows: HashMap<ConnectionId, VecDeque<Received>>,
    /// Whose turn is when; each connection with a row is in it once.
    turns: VecDeque<ConnectionId>,
}

impl Held {
    pub(crate) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether there is something of this connection.
    pub(crate) fn has(&self, connection: ConnectionId) -> bool {
        self.rows.contains_key(&connection)
    }

    /// Puts a request behind those of its connection.
    pub(crate) fn push(&mut self, one: Received) {
        let connection = one.from.connection;
        let row = self.rows.entry(connection).or_default();
        if row.is_empty() {
            self.turns.push_back(connection);
        }
        row.push_back(one);
    }

    /// The first request of the next connection that may be heard.
    pub(crate) fn next(&mut self, may_be_heard: impl Fn(ConnectionId) -> bool) -> Option<Received> {
        for _ in 0..self.turns.len() {
            let connection = self.turns.pop_front()?;
            if !may_be_heard(connection) {
                self.turns.push_back(connection);
                continue;
            }
            let row = self.rows.get_mut(&connection)?;
            let one = row.pop_front();
            if row.is_empty() {
                self.rows.remove(&connection);
            } else {
                self.turns.push_back(connection);
            }
            return one;
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

    fn what(one: &Received) -> (usize, &Body) {
        (one.from.connection.0, &one.body)
    }

    #[test]
    fn connections_take_turns_and_each_keeps_its_order() {
        let mut held = Held::default();
        for (connection, number) in [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (2, 2)] {
            held.push(request(connection, number));
        }
        assert!(held.has(ConnectionId(3)) && !held.has(ConnectionId(4)));
        let mut heard = Vec::new();
        while let Some(one) = held.next(|connection| connection != ConnectionId(2)) {
            heard.push(one);
        }
        let heard: Vec<_> = heard.iter().map(what).collect();
        let body = |number| Body::Whole(vec![number]);
        assert_eq!(heard, [(1, &body(1)), (3, &body(1)), (1, &body(2)), (1, &body(3))]);
        assert!(held.has(ConnectionId(2)) && !held.has(ConnectionId(1)) && !held.is_empty());
        assert_eq!(held.next(|_| true).as_ref().map(what), Some((2, &body(1))));
        assert_eq!(held.next(|_| true).as_ref().map(what), Some((2, &body(2))));
        assert!(held.is_empty() && held.next(|_| true).is_none());
    }
}
