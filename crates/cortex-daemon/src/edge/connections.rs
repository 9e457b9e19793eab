//! The connections of all peers: whose turn it is, limits and deadlines.
//!
//! The poll is edge-triggered: it tells of a change once. So each connection remembers whether
//! it may have something to read, and stands in a queue until it has had its turn. A turn is
//! bounded, so that no peer can keep the others waiting.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Event as PollEvent;
use mio::{Interest, Registry as PollRegistry, Token};

use super::clock::now;
use super::connection::{Connection, Received};
use super::credentials::Credentials;
use super::descriptors::ReserveDescriptor;
use super::listener::Listener;
use super::log_limit::LogLimit;
use super::stream::Stream;
use crate::peer::{ConnectionId, ReplyTo};
use crate::zmtp::Violation;

/// How long a peer may take until its handshake is done.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer takes from its connect to its first request, when it has one.
const FIRST_REQUEST_TIME: Duration = Duration::from_millis(100);
/// The most requests taken from all peers before they are answered.
const MAX_ROUND_REQUESTS: usize = 1024;
/// The most connections taken from one listener in one round.
const MAX_ROUND_ACCEPTS: usize = 256;
/// How long the door stays shut when the system can give us no connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const READ_BUFFER: usize = 64 * 1024;
/// The most bytes of memory that replies take which peers do not read.
const MAX_UNREAD: usize = 256 * 1024 * 1024;
/// After so many bytes more it is counted again how much memory they take.
const MEMORY_COUNT_STEP: usize = 32 * 1024 * 1024;

/// All connections.
pub(crate) struct Connections {
    poll_registry: PollRegistry,
    by_id: HashMap<ConnectionId, Connection>,
    next_id: usize,
    /// Those with something to do, each at most once.
    turns: VecDeque<ConnectionId>,
    /// Those that may have something to send.
    unsent: Vec<ConnectionId>,
    /// Those whose end has come.
    disconnected: Vec<ConnectionId>,
    /// The bytes that all have to be sent. What is shared counts for each of them, so there is more
    /// here than in memory.
    unsent_bytes: usize,
    /// From how many of them on the memory is counted.
    next_memory_count: usize,
    /// In the order of their deadlines, which all lie equally far ahead.
    handshakes: VecDeque<(Instant, ConnectionId)>,
    /// Until when the newest peer may still be on its way to its first request.
    newcomers_until: Option<Instant>,
    limit: usize,
    per_user: HashMap<Option<u32>, usize>,
    reserve: ReserveDescriptor,
    accept_retry_at: Option<Instant>,
    buffer: Box<[u8]>,
    refused_log: LogLimit,
    accept_failure_log: LogLimit,
    violation_log: LogLimit,
    counters: ConnectionCounters,
}

/// What has happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnectionCounters {
    /// Connections taken.
    pub(crate) accepted: u64,
    /// Connections closed at once, since there were too many.
    pub(crate) refused: u64,
    /// Connections closed for what the peer did.
    pub(crate) violations: u64,
    /// Messages without a delimiter or a body.
    pub(crate) dropped: u64,
    /// Requests taken.
    pub(crate) requests: u64,
}

impl Connections {
    /// No connections yet. Their tokens and identities count up from `first_token`.
    pub(crate) fn new(poll_registry: PollRegistry, first_token: usize, limit: usize) -> Self {
        Self {
            poll_registry,
            by_id: HashMap::new(),
            next_id: first_token,
            turns: VecDeque::new(),
            unsent: Vec::new(),
            disconnected: Vec::new(),
            unsent_bytes: 0,
            next_memory_count: MAX_UNREAD,
            handshakes: VecDeque::new(),
            newcomers_until: None,
            limit,
            per_user: HashMap::new(),
            reserve: ReserveDescriptor::new(),
            accept_retry_at: None,
            buffer: vec![0; READ_BUFFER].into(),
            refused_log: LogLimit::new(1),
            accept_failure_log: LogLimit::new(1),
            violation_log: LogLimit::new(1),
            counters: ConnectionCounters::default(),
        }
    }

    pub(crate) fn counters(&self) -> ConnectionCounters {
        self.counters
    }

    pub(crate) fn is_full(&self) -> bool {
        self.by_id.len() >= self.limit
    }

    /// Whether a connection waits for its turn.
    pub(crate) fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Until when a peer that has just connected may still be shaking hands, to ask for something
    /// that it wanted to ask for earlier.
    pub(crate) fn newcomers_until(&self) -> Option<Instant> {
        self.newcomers_until
    }

    /// When [`expire`](Self::expire) has something to do, or a listener may be tried again.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let handshake = self.handshakes.front().map(|(deadline, _)| *deadline);
        handshake.into_iter().chain(self.accept_retry_at).min()
    }

    /// Whether listeners are left alone for a moment.
    pub(crate) fn is_pausing(&self, now: Instant) -> bool {
        self.accept_retry_at.is_some_and(|retry_at| now < retry_at)
    }

    /// Notes what the poll says of a connection.
    pub(crate) fn mark(&mut self, event: &PollEvent) {
        let id = ConnectionId(event.token().0);
        let Some(connection) = self.by_id.get_mut(&id) else { return };
        if connection.mark(event) {
            self.queue_turn(id);
        }
        if event.is_writable() || event.is_write_closed() {
            self.queue_unsent(id);
        }
    }

    /// Gives each waiting connection a turn, and appends what was asked.
    pub(crate) fn collect(&mut self, received: &mut Vec<Received>, now: Instant) {
        for _ in 0..self.turns.len() {
            if received.len() >= MAX_ROUND_REQUESTS {
                return;
            }
            let Some(id) = self.turns.pop_front() else { return };
            let Some(connection) = self.by_id.get_mut(&id) else { continue };
            connection.in_turns = false;
            let before = received.len();
            let turn =
                connection.take_turn(id, &mut self.buffer, &mut self.counters.dropped, received);
            self.counters.requests += (received.len() - before) as u64;
            if !std::mem::replace(&mut connection.in_unsent, true) {
                self.unsent.push(id);
            }
            if connection.is_disconnected() {
                self.disconnected.push(id);
            }
            match turn {
                Ok(true) => self.queue_turn(id),
                Ok(false) => {}
                Err(violation) => self.record_violation(id, &violation, now),
            }
        }
    }

    /// Whether a peer must read before it is answered again.
    pub(crate) fn has_backpressure(&self, id: ConnectionId) -> bool {
        self.by_id.get(&id).is_some_and(Connection::has_backpressure)
    }

    /// How many connections there are.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Those whose end has come since the last call, some of them more than once.
    pub(crate) fn take_disconnected(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.disconnected)
    }

    /// Whether nobody is there any more to read an answer.
    pub(crate) fn is_disconnected(&self, id: ConnectionId) -> bool {
        self.by_id.get(&id).is_none_or(Connection::is_disconnected)
    }

    /// A request of this connection will not be answered.
    pub(crate) fn cancel(&mut self, id: ConnectionId) {
        if let Some(connection) = self.by_id.get_mut(&id) {
            connection.finish_request();
            self.queue_unsent(id);
        }
    }

    /// Puts a reply on its way; a peer that is gone needs none.
    pub(crate) fn reply(&mut self, to: &ReplyTo, body: &Arc<[u8]>) {
        if let Some(connection) = self.by_id.get_mut(&to.connection) {
            connection.reply(&to.envelope, body);
            self.queue_unsent(to.connection);
            self.update_unsent(to.connection);
        }
    }

    /// Sends as much as the peers take.
    pub(crate) fn flush(&mut self) {
        for id in std::mem::take(&mut self.unsent) {
            let Some(connection) = self.by_id.get_mut(&id) else { continue };
            connection.in_unsent = false;
            let had_backpressure = connection.has_backpressure();
            let sent = connection.send(&self.poll_registry, id);
            match sent {
                Err(error) => {
                    tracing::debug!(connection = id.0, %error, "the peer takes no more answers");
                    connection.stop_sending();
                    self.queue_turn(id);
                }
                // It has read: what it asked meanwhile is looked at.
                Ok(()) if had_backpressure && !connection.has_backpressure() => self.queue_turn(id),
                Ok(()) if connection.is_done() => self.close(id),
                Ok(()) => {}
            }
            self.update_unsent(id);
        }
        self.limit_unread();
    }

    fn update_unsent(&mut self, id: ConnectionId) {
        let Some(connection) = self.by_id.get_mut(&id) else { return };
        let unsent = connection.unsent();
        let before = std::mem::replace(&mut connection.last_unsent, unsent);
        self.unsent_bytes = self.unsent_bytes - before + unsent;
    }

    /// Closes those that leave most unread, when it is too much for the memory. They may connect
    /// again, and ask again.
    fn limit_unread(&mut self) {
        if self.unsent_bytes < self.next_memory_count {
            self.next_memory_count =
                (self.unsent_bytes + MEMORY_COUNT_STEP).clamp(MAX_UNREAD, self.next_memory_count);
            return;
        }
        let mut seen = HashSet::new();
        let memory = |(id, connection): (&ConnectionId, &mut Connection)| {
            (connection.unsent_memory(&mut seen), *id)
        };
        let mut unread: Vec<_> = self.by_id.iter_mut().map(memory).collect();
        unread.sort_unstable();
        let mut total: usize = unread.iter().map(|(memory, _)| memory).sum();
        while total > MAX_UNREAD
            && let Some((memory, id)) = unread.pop()
        {
            total -= memory;
            self.record_violation(id, &Violation::TooMuchUnread(memory), now());
            self.close(id);
        }
        self.next_memory_count = MAX_UNREAD.max(self.unsent_bytes + MEMORY_COUNT_STEP);
    }

    /// Takes waiting connections, and closes those for which there is no room.
    pub(crate) fn accept(&mut self, listener: &mut Listener, now: Instant) {
        if self.is_pausing(now) {
            return;
        }
        self.accept_retry_at = None;
        for _ in 0..MAX_ROUND_ACCEPTS {
            // Without a reserve there is no way to close one connection more than there can be.
            if !self.reserve.refill() {
                self.accept_retry_at = Some(now + ACCEPT_PAUSE);
                return;
            }
            match listener.accept() {
                Ok((stream, credentials)) => self.add(stream, credentials, now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    listener.may_have_more = false;
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return self.shed_connections(listener, &error, now),
            }
        }
    }

    /// Closes the connections whose handshake has taken too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, id)) = self.handshakes.front()
            && deadline <= now
        {
            self.handshakes.pop_front();
            if self.by_id.get(&id).is_some_and(|connection| !connection.is_open()) {
                let silent = Violation::Handshake("it is not done after 10 s");
                self.record_violation(id, &silent, now);
                self.close(id);
            }
        }
    }

    /// Whether all replies are with the system. If not, `flush` and the poll go on.
    pub(crate) fn all_sent(&mut self) -> bool {
        self.by_id.values_mut().all(Connection::is_all_sent)
    }

    /// Reads and forgets what peers still say. A TCP peer whose words are unread at our close
    /// would lose the reply on its way.
    pub(crate) fn discard_input(&mut self) {
        for connection in self.by_id.values_mut() {
            connection.discard_input(&mut self.buffer);
        }
    }

    fn add(&mut self, mut stream: Stream, credentials: Credentials, now: Instant) {
        let uid = credentials.uid;
        let count = self.per_user.get(&uid).copied().unwrap_or(0);
        // No other user alone can take all the room.
        let share = if credentials.is_trusted() { self.limit } else { self.limit.div_ceil(2) };
        if self.is_full() || count >= share {
            self.counters.refused += 1;
            if let Some(suppressed) = self.refused_log.allow(now) {
                let (refused, connections) = (self.counters.refused, self.by_id.len());
                tracing::warn!(
                    uid,
                    connections,
                    limit = self.limit,
                    refused,
                    suppressed,
                    "too many connections: a new one was closed"
                );
            }
            return;
        }
        let id = ConnectionId(self.next_id);
        if let Err(error) = stream.register(&self.poll_registry, Token(id.0), Interest::READABLE) {
            self.counters.refused += 1;
            self.accept_retry_at = Some(now + ACCEPT_PAUSE);
            self.log_accept_failure(&error, now);
            return;
        }
        self.next_id += 1;
        self.counters.accepted += 1;
        *self.per_user.entry(uid).or_default() += 1;
        self.handshakes.push_back((now + HANDSHAKE_TIMEOUT, id));
        self.by_id.insert(id, Connection::new(stream, credentials));
        self.newcomers_until = Some(now + FIRST_REQUEST_TIME);
        self.queue_unsent(id);
        tracing::trace!(connection = id.0, uid, "connected");
    }

    /// The system could not give us a connection. With the reserve given up, those that wait are
    /// taken and closed, one after the other; the door then stays shut for a moment.
    fn shed_connections(&mut self, listener: &mut Listener, error: &io::Error, now: Instant) {
        self.accept_retry_at = Some(now + ACCEPT_PAUSE);
        for _ in 0..MAX_ROUND_ACCEPTS {
            // Dropped at once: its descriptor is the reserve's.
            match self.reserve.with_free_descriptor(|| listener.accept().map(drop)) {
                Ok(()) => self.counters.refused += 1,
                Err(error) => {
                    if error.kind() == io::ErrorKind::WouldBlock {
                        listener.may_have_more = false;
                        self.accept_retry_at = None;
                    }
                    break;
                }
            }
        }
        self.log_accept_failure(error, now);
    }

    fn log_accept_failure(&mut self, error: &io::Error, now: Instant) {
        if let Some(suppressed) = self.accept_failure_log.allow(now) {
            let refused = self.counters.refused;
            tracing::warn!(%error, refused, suppressed, "a connection could not be taken");
        }
    }

    fn record_violation(&mut self, id: ConnectionId, violation: &Violation, now: Instant) {
        self.counters.violations += 1;
        if let Some(suppressed) = self.violation_log.allow(now) {
            let uid = self.by_id.get(&id).and_then(|connection| connection.credentials.uid);
            tracing::warn!(connection = id.0, uid, suppressed, "peer closed: {violation}");
        }
    }

    fn close(&mut self, id: ConnectionId) {
        let Some(mut connection) = self.by_id.remove(&id) else { return };
        tracing::trace!(connection = id.0, "disconnected");
        self.unsent_bytes -= connection.last_unsent;
        // What it waited for is of no use any more.
        self.disconnected.push(id);
        if let Err(error) = connection.stream.deregister(&self.poll_registry) {
            tracing::debug!(connection = id.0, %error, "closed without being unwatched");
        }
        if let Some(count) = self.per_user.get_mut(&connection.credentials.uid) {
            *count -= 1;
            if *count == 0 {
                self.per_user.remove(&connection.credentials.uid);
            }
        }
    }

    fn queue_turn(&mut self, id: ConnectionId) {
        if let Some(connection) = self.by_id.get_mut(&id)
            && !std::mem::replace(&mut connection.in_turns, true)
        {
            self.turns.push_back(id);
        }
    }

    fn queue_unsent(&mut self, id: ConnectionId) {
        if let Some(connection) = self.by_id.get_mut(&id)
            && !std::mem::replace(&mut connection.in_unsent, true)
        {
            self.unsent.push(id);
        }
    }
}
