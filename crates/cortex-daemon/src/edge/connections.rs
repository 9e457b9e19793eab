//! All connections: their turns, limits and deadlines.
//!
//! The poll is edge-triggered: it reports a change once. So each connection remembers whether it
//! may have bytes to read, and stays in a queue until its turn. A turn is bounded, so that no peer
//! delays the others for long.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Event as PollEvent;
use mio::{Interest, Registry as PollRegistry, Token};

use super::blocked_peers::BlockedPeerChecks;
use super::clock::now;
use super::connection::Connection;
use super::connection_counters::ConnectionCounters;
use super::connection_log::ConnectionLog;
use super::credentials::Credentials;
use super::descriptors::ReserveDescriptor;
use super::listener::Listener;
use super::processes::Processes;
use super::silence::SilenceChecks;
use super::stream::Stream;
use super::unread::{UnreadMemory, over_limit};
use crate::peer::{ConnectionId, ReplyTo};
use crate::registry::{PeerRequest, WaitingRequests};
use crate::zmtp::Violation;

/// A connection whose handshake takes longer is closed.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The most requests that the daemon reads in one round, from all peers together.
const MAX_ROUND_REQUESTS: usize = 1024;
/// The most connections that the daemon accepts from one listener in one round.
const MAX_ROUND_ACCEPTS: usize = 256;
/// How long the daemon accepts no connections after the system could not give it one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const READ_BUFFER: usize = 64 * 1024;

/// The connections of all peers.
pub(crate) struct Connections {
    poll_registry: PollRegistry,
    by_id: HashMap<ConnectionId, Connection>,
    next_id: usize,
    /// The connections that need a turn, each at most once.
    turns: VecDeque<ConnectionId>,
    /// The connections that may have bytes to send.
    unsent: Vec<ConnectionId>,
    /// The connections that have ended since [`take_disconnected`](Self::take_disconnected).
    disconnected: Vec<ConnectionId>,
    unread_memory: UnreadMemory,
    /// The deadlines of the handshakes, the earliest first.
    handshakes: VecDeque<(Instant, ConnectionId)>,
    silence_checks: SilenceChecks,
    blocked_peer_checks: BlockedPeerChecks,
    limit: usize,
    per_user: HashMap<Option<u32>, usize>,
    reserve: ReserveDescriptor,
    accept_retry_at: Option<Instant>,
    buffer: Box<[u8]>,
    log: ConnectionLog,
    counters: ConnectionCounters,
}

impl Connections {
    /// No connections yet. Their ids, which are also their poll tokens, count up from
    /// `first_token`.
    pub(crate) fn new(poll_registry: PollRegistry, first_token: usize, limit: usize) -> Self {
        Self {
            poll_registry,
            by_id: HashMap::new(),
            next_id: first_token,
            turns: VecDeque::new(),
            unsent: Vec::new(),
            disconnected: Vec::new(),
            unread_memory: UnreadMemory::new(),
            handshakes: VecDeque::new(),
            silence_checks: SilenceChecks::default(),
            blocked_peer_checks: BlockedPeerChecks::default(),
            limit,
            per_user: HashMap::new(),
            reserve: ReserveDescriptor::new(),
            accept_retry_at: None,
            buffer: vec![0; READ_BUFFER].into(),
            log: ConnectionLog::new(),
            counters: ConnectionCounters::default(),
        }
    }

    pub(crate) fn counters(&self) -> ConnectionCounters {
        self.counters
    }

    pub(crate) fn is_full(&self) -> bool {
        self.by_id.len() >= self.limit
    }

    /// Whether a connection needs a turn.
    pub(crate) fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Notes the users whose requests may wait unread.
    pub(crate) fn note_unread(&self, waiting: &mut WaitingRequests, now: Instant) {
        for connection in self.by_id.values() {
            if let Some(since) = connection.unread_since(now) {
                waiting.add(connection.credentials.uid, since);
            }
        }
    }

    /// Before the last requests that the daemon has read from the connection can have come.
    pub(crate) fn input_since(&self, id: ConnectionId) -> Option<Instant> {
        self.by_id.get(&id).map(Connection::input_since)
    }

    /// When [`expire`](Self::expire) must run, or the daemon may accept connections again.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let handshake = self.handshakes.front().map(|(deadline, _)| *deadline);
        let silence = self.silence_checks.next_due();
        let blocked = self.blocked_peer_checks.next_due();
        [handshake, silence, blocked, self.accept_retry_at].into_iter().flatten().min()
    }

    /// Whether the daemon accepts no connections for a moment.
    pub(crate) fn is_pausing(&self, now: Instant) -> bool {
        self.accept_retry_at.is_some_and(|retry_at| now < retry_at)
    }

    /// Queues a connection after an event of the poll, which has come since `last_poll`.
    pub(crate) fn mark(&mut self, event: &PollEvent, last_poll: Instant, now: Instant) {
        let id = ConnectionId(event.token().0);
        let Some(connection) = self.by_id.get_mut(&id) else { return };
        if connection.mark(event, last_poll, now) {
            self.queue_turn(id);
        }
        if event.is_writable() || event.is_write_closed() {
            self.queue_unsent(id);
        }
    }

    /// Gives each connection in the queue one turn, and appends their requests.
    pub(crate) fn collect(
        &mut self,
        processes: &Processes,
        received: &mut Vec<PeerRequest>,
        now: Instant,
    ) {
        for _ in 0..self.turns.len() {
            if received.len() >= MAX_ROUND_REQUESTS {
                return;
            }
            let Some(id) = self.turns.pop_front() else { return };
            let Some(connection) = self.by_id.get_mut(&id) else { continue };
            connection.in_turns = false;
            let before = received.len();
            let (buffer, dropped) = (&mut self.buffer, &mut self.counters.dropped);
            let turn = connection.take_turn(id, buffer, processes, dropped, received);
            self.counters.requests += (received.len() - before) as u64;
            if !std::mem::replace(&mut connection.in_unsent, true) {
                self.unsent.push(id);
            }
            if connection.is_disconnected() {
                self.disconnected.push(id);
            }
            if let Some(end) = connection.silent_until(now) {
                self.silence_checks.check_by(id, end);
            }
            match turn {
                Ok(true) => self.queue_turn(id),
                Ok(false) => {}
                Err(violation) => self.record_violation(id, &violation, now),
            }
        }
    }

    /// Reads no more requests of the connection, until [`release`](Self::release).
    pub(crate) fn hold(&mut self, id: ConnectionId) {
        if let Some(connection) = self.by_id.get_mut(&id) {
            connection.is_held = true;
        }
    }

    /// Reads requests of the connection again.
    pub(crate) fn release(&mut self, id: ConnectionId) {
        if let Some(connection) = self.by_id.get_mut(&id)
            && std::mem::take(&mut connection.is_held)
        {
            self.queue_turn(id);
        }
    }

    /// Whether the peer must read some replies before the daemon handles more of its requests.
    pub(crate) fn has_backpressure(&self, id: ConnectionId) -> bool {
        self.by_id.get(&id).is_some_and(Connection::has_backpressure)
    }

    /// The peer's user and process, as far as the kernel tells.
    pub(crate) fn user_and_pid(&self, id: ConnectionId) -> (Option<u32>, Option<u32>) {
        let credentials = self.by_id.get(&id).map(|connection| connection.credentials);
        credentials.map_or((None, None), |Credentials { uid, pid, .. }| (uid, pid))
    }

    /// The number of open connections.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The connections that have ended since the last call; one may occur several times.
    pub(crate) fn take_disconnected(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.disconnected)
    }

    /// Whether the peer can read no more replies.
    pub(crate) fn is_disconnected(&self, id: ConnectionId) -> bool {
        self.by_id.get(&id).is_none_or(Connection::is_disconnected)
    }

    /// Notes that one request of the connection gets no reply.
    pub(crate) fn cancel(&mut self, id: ConnectionId) {
        if let Some(connection) = self.by_id.get_mut(&id) {
            connection.finish_request();
            self.queue_unsent(id);
        }
    }

    /// Queues a reply, unless the connection is closed.
    pub(crate) fn reply(&mut self, to: &ReplyTo, body: &Arc<[u8]>) {
        if let Some(connection) = self.by_id.get_mut(&to.connection) {
            connection.reply(&to.envelope, body);
            self.queue_unsent(to.connection);
            self.update_unsent(to.connection);
        }
    }

    /// Sends bytes to all peers that can take them, and closes finished connections.
    pub(crate) fn flush(&mut self) {
        for id in std::mem::take(&mut self.unsent) {
            let Some(connection) = self.by_id.get_mut(&id) else { continue };
            connection.in_unsent = false;
            let had_backpressure = connection.has_backpressure();
            let sent = connection.send(&self.poll_registry, id);
            if connection.is_blocked_tcp() {
                self.blocked_peer_checks.begin(now());
            }
            match sent {
                Err(error) => {
                    tracing::debug!(connection = id.0, %error, "the peer reads no more replies");
                    connection.stop_sending();
                    self.queue_turn(id);
                }
                // The peer has read: the daemon reads its requests again.
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
        self.unread_memory.change(before, unsent);
    }

    /// Closes the connections with the most unread replies, when all unread replies take too much
    /// memory. Their peers may connect again.
    fn limit_unread(&mut self) {
        if !self.unread_memory.must_count() {
            return;
        }
        let mut seen = HashSet::new();
        let memory = |(id, connection): (&ConnectionId, &mut Connection)| {
            (connection.unsent_memory(&mut seen), *id)
        };
        let unread = self.by_id.iter_mut().map(memory).collect();
        for (memory, id) in over_limit(unread) {
            self.record_violation(id, &Violation::TooMuchUnread(memory), now());
            self.close(id);
        }
        self.unread_memory.counted();
    }

    /// Accepts connections, and closes those that are over the limit.
    pub(crate) fn accept(&mut self, listener: &mut Listener, now: Instant) {
        if self.is_pausing(now) {
            return;
        }
        self.accept_retry_at = None;
        for _ in 0..MAX_ROUND_ACCEPTS {
            // Without the reserve descriptor the daemon could not accept and close a connection
            // when no other descriptor is left.
            if !self.reserve.refill() {
                self.accept_retry_at = Some(now + ACCEPT_PAUSE);
                return;
            }
            match listener.accept() {
                Ok((stream, credentials)) => {
                    self.add(stream, credentials, listener.ready_since, now);
                }
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

    /// Closes the connections whose handshake has taken too long, those whose peers have been
    /// silent for the time to live of their heartbeats, and blocked ones to hosts that are gone.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, id)) = self.handshakes.front()
            && deadline <= now
        {
            self.handshakes.pop_front();
            if self.by_id.get(&id).is_some_and(|connection| !connection.is_open()) {
                let too_slow = Violation::Handshake("it is not done after 10 s");
                self.record_violation(id, &too_slow, now);
                self.close(id);
            }
        }
        while let Some(id) = self.silence_checks.take_due(now) {
            match self.by_id.get(&id).and_then(|connection| connection.silent_until(now)) {
                Some(end) if end > now => self.silence_checks.check_by(id, end),
                Some(_) => {
                    tracing::debug!(connection = id.0, "the peer's heartbeats have stopped");
                    self.close(id);
                }
                None => {}
            }
        }
        if self.blocked_peer_checks.is_due(now) {
            let blocked = self.by_id.iter().filter_map(|(id, peer)| peer.blocked_peer(*id));
            let blocked: Vec<_> = blocked.collect();
            for id in self.blocked_peer_checks.check(&blocked, now) {
                tracing::debug!(connection = id.0, "the peer's host does not answer");
                self.close(id);
            }
        }
    }

    /// Whether the system has taken all replies.
    pub(crate) fn all_sent(&mut self) -> bool {
        self.by_id.values_mut().all(Connection::is_all_sent)
    }

    /// Reads and discards what the peers have sent. TCP resets a connection that is closed with
    /// unread bytes, and the peer would lose replies that are still on their way.
    pub(crate) fn discard_input(&mut self) {
        for connection in self.by_id.values_mut() {
            connection.discard_input(&mut self.buffer);
        }
    }

    /// Takes a new connection, which has come after `since`.
    fn add(&mut self, mut stream: Stream, credentials: Credentials, since: Instant, now: Instant) {
        let uid = credentials.uid;
        let count = self.per_user.get(&uid).copied().unwrap_or(0);
        // Another user gets at most half of the connections.
        let share = if credentials.is_trusted() { self.limit } else { self.limit.div_ceil(2) };
        if self.is_full() || count >= share {
            self.counters.refused += 1;
            let (connections, refused) = (self.by_id.len(), self.counters.refused);
            self.log.refused(uid, connections, self.limit, refused, now);
            return;
        }
        let id = ConnectionId(self.next_id);
        if let Err(error) = stream.register(&self.poll_registry, Token(id.0), Interest::READABLE) {
            self.counters.refused += 1;
            self.accept_retry_at = Some(now + ACCEPT_PAUSE);
            self.log.accept_failure(&error, self.counters.refused, now);
            return;
        }
        self.next_id += 1;
        self.counters.accepted += 1;
        *self.per_user.entry(uid).or_default() += 1;
        self.handshakes.push_back((now + HANDSHAKE_TIMEOUT, id));
        self.by_id.insert(id, Connection::new(stream, credentials, since, now));
        self.queue_unsent(id);
        tracing::trace!(connection = id.0, uid, "connected");
    }

    /// Closes all waiting connections after the system could not give the daemon one: it accepts
    /// them one by one with the reserve descriptor. Then it accepts none for a moment.
    fn shed_connections(&mut self, listener: &mut Listener, error: &io::Error, now: Instant) {
        self.accept_retry_at = Some(now + ACCEPT_PAUSE);
        for _ in 0..MAX_ROUND_ACCEPTS {
            // Closed at once: it uses the reserve descriptor.
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
        self.log.accept_failure(error, self.counters.refused, now);
    }

    fn record_violation(&mut self, id: ConnectionId, violation: &Violation, now: Instant) {
        self.counters.violations += 1;
        let uid = self.by_id.get(&id).and_then(|connection| connection.credentials.uid);
        self.log.violation(id, uid, violation, now);
    }

    fn close(&mut self, id: ConnectionId) {
        let Some(mut connection) = self.by_id.remove(&id) else { return };
        tracing::trace!(connection = id.0, "disconnected");
        self.unread_memory.change(connection.last_unsent, 0);
        // Its parked requests need no reply.
        self.disconnected.push(id);
        self.silence_checks.remove(id);
        if let Err(error) = connection.stream.deregister(&self.poll_registry) {
            tracing::debug!(connection = id.0, %error, "cannot remove a connection from the poll");
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
