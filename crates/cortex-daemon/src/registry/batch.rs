//! Requests whose answers wait for the store: those that change something, and later requests of
//! their connections.

use std::collections::HashSet;

use super::answer::Answer;
use super::input::PeerRequest;
use crate::peer::ConnectionId;

/// The requests that are answered with one commit, and their answers.
#[derive(Debug, Default)]
pub(super) struct Batch {
    decided: Vec<Decided>,
    /// The connections of these requests.
    connections: HashSet<ConnectionId>,
    /// Those that have disconnected since.
    disconnected: HashSet<ConnectionId>,
    /// About how much work the answers are, in bytes and steps.
    pub(super) cost: usize,
}

/// A request that is decided.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) request: PeerRequest,
    pub(super) answer: Answer,
    /// Whether the peer has given up the request: it would take the reply for another one.
    pub(super) is_given_up: bool,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.decided.is_empty()
    }

    pub(super) fn add(&mut self, request: PeerRequest, answer: Answer, cost: usize) {
        self.cost += cost;
        self.connections.insert(request.reply_to.connection);
        self.decided.push(Decided { request, answer, is_given_up: false });
    }

    /// Whether a request of this connection waits.
    pub(super) fn has(&self, connection: ConnectionId) -> bool {
        self.connections.contains(&connection)
    }

    /// Notes that the peer has given up its requests.
    pub(super) fn give_up(&mut self, connection: ConnectionId) {
        if self.has(connection) {
            let of_peer =
                |decided: &&mut Decided| decided.request.reply_to.connection == connection;
            self.decided.iter_mut().filter(of_peer).for_each(|decided| decided.is_given_up = true);
        }
    }

    pub(super) fn note_disconnected(&mut self, connection: ConnectionId) {
        if self.has(connection) {
            self.disconnected.insert(connection);
        }
    }

    pub(super) fn is_disconnected(&self, connection: ConnectionId) -> bool {
        self.disconnected.contains(&connection)
    }

    /// Takes the requests, in their order.
    pub(super) fn take_decided(&mut self) -> Vec<Decided> {
        std::mem::take(&mut self.decided)
    }
}
