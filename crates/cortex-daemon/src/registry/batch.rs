//! Requests whose answers wait for the store: those that change something, and later requests of
//! their connections.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::answer::Answer;
use super::input::PeerRequest;
use crate::peer::ConnectionId;

/// A REQ peer that sends its next request so soon has not given up the one before: no client waits
/// so shortly for a reply. It gets all replies.
const PIPELINING: Duration = Duration::from_millis(200);

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
    /// `None` for a request that is parked unless the commit answers it: it is decided after that.
    pub(super) answer: Option<Answer>,
    pub(super) since: Instant,
    /// Whether the peer has given up the request: it would take the reply for another one.
    pub(super) is_given_up: bool,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.decided.is_empty()
    }

    pub(super) fn add(
        &mut self,
        request: PeerRequest,
        answer: Option<Answer>,
        cost: usize,
        now: Instant,
    ) {
        self.cost += cost;
        self.connections.insert(request.reply_to.connection);
        self.decided.push(Decided { request, answer, since: now, is_given_up: false });
    }

    /// Whether a request of this connection waits.
    pub(super) fn has(&self, connection: ConnectionId) -> bool {
        self.connections.contains(&connection)
    }

    /// Notes that the peer has given up its requests, since it has sent another one now.
    pub(super) fn give_up(&mut self, connection: ConnectionId, now: Instant) {
        if !self.has(connection) {
            return;
        }
        for decided in &mut self.decided {
            let is_of_peer = decided.request.reply_to.connection == connection;
            let is_parked = decided.answer.is_none();
            decided.is_given_up |= is_of_peer && (is_parked || now > decided.since + PIPELINING);
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
