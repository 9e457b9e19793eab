//! The connections of all peers: reading, writing, limits and deadlines.
//!
//! The poll is edge-triggered: it tells of a change once. So each connection remembers whether
//! it may have something to read, and stands in a queue until it has had its turn. A turn is
//! bounded, so that no peer can keep the others waiting.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Event as PollEvent;
use mio::{Interest, Registry, Token};

use super::credentials::User;
use super::descriptors::Reserve;
use super::listener::Listener;
use super::log_limit::LogLimit;
use super::stream::Stream;
use crate::peer::{ConnectionId, ReplyTo};
use crate::zmtp::{Body, Connection, Event, Violation};

/// How long a peer may take until its handshake is done.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The most requests taken from one peer in one turn.
const REQUESTS_A_TURN: usize = 64;
/// With more bytes than this in its requests, a peer's turn is over.
const BYTES_A_TURN: usize = 64 * 1024;
/// The most reads from one peer in one turn.
const READS_A_TURN: usize = 4;
/// The most requests taken from all peers before they are answered.
const REQUESTS_A_ROUND: usize = 1024;
/// The most connections taken from one listener in one round.
const ACCEPTS_A_ROUND: usize = 256;
/// How long the door stays shut when the system can give us no connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const READ_BUFFER: usize = 64 * 1024;

/// A request and where its reply goes.
pub(crate) type Asked = (ReplyTo, Body);

/// All connections.
pub(crate) struct Connections {
    registry: Registry,
    peers: HashMap<ConnectionId, Peer>,
    next_id: usize,
    /// Those with something to do, each at most once.
    turns: VecDeque<ConnectionId>,
    /// Those that may have something to send.
    unsent: Vec<ConnectionId>,
    /// In the order of their deadlines, which all lie equally far ahead.
    handshakes: VecDeque<(Instant, ConnectionId)>,
    limit: usize,
    per_user: HashMap<User, usize>,
    reserve: Reserve,
    accept_again: Option<Instant>,
    buffer: Box<[u8]>,
    refused_log: LogLimit,
    shed_log: LogLimit,
    violation_log: LogLimit,
    counters: Counters,
}

/// What has happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
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

struct Peer {
    stream: Stream,
    zmtp: Connection,
    user: User,
    input: Input,
    output: Output,
    in_turns: bool,
    in_unsent: bool,
}

/// Whether a peer takes what it is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    Flowing,
    /// Something is stuck, and the poll tells when there is room. It is asked only then: it would
    /// tell after each reply that the peer reads.
    Stuck,
    /// It takes no more, but what it has asked still counts: a node that unregisters its topics
    /// and ends does not wait for the answers.
    Deaf,
}

/// What there may be to read from a peer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    /// Nothing; the poll tells when there is.
    Dry,
    /// Something.
    Waiting,
    /// Something, and then the end: the peer has closed its side, or is gone.
    Closing,
    /// The end has been read.
    Ended,
    /// The peer broke the protocol: it is answered what it had asked before, and closed.
    Violated,
}

impl Input {
    /// What a peer that has closed its side may still have sent comes before the end.
    fn at_its_end(self) -> Self {
        match self {
            Self::Dry | Self::Waiting | Self::Closing => Self::Closing,
            Self::Ended | Self::Violated => self,
        }
    }
}

impl Connections {
    /// No connections yet. Their tokens and identities count up from `first_token`.
    pub(crate) fn new(registry: Registry, first_token: usize, limit: usize) -> Self {
        Self {
            registry,
            peers: HashMap::new(),
            next_id: first_token,
            turns: VecDeque::new(),
            unsent: Vec::new(),
            handshakes: VecDeque::new(),
            limit,
            per_user: HashMap::new(),
            reserve: Reserve::new(),
            accept_again: None,
            buffer: vec![0; READ_BUFFER].into(),
            refused_log: LogLimit::default(),
            shed_log: LogLimit::default(),
            violation_log: LogLimit::default(),
            counters: Counters::default(),
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    pub(crate) fn is_full(&self) -> bool {
        self.peers.len() >= self.limit
    }

    /// Whether a connection waits for its turn.
    pub(crate) fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    /// When [`expire`](Self::expire) has something to do, or a listener may be tried again.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let handshake = self.handshakes.front().map(|(deadline, _)| *deadline);
        handshake.into_iter().chain(self.accept_again).min()
    }

    /// Whether listeners are left alone for a moment.
    pub(crate) fn is_pausing(&self, now: Instant) -> bool {
        self.accept_again.is_some_and(|again| now < again)
    }

    /// Notes what the poll says of a connection.
    pub(crate) fn mark(&mut self, event: &PollEvent) {
        let id = ConnectionId(event.token().0);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            let is_closing = event.is_read_closed() || event.is_write_closed() || event.is_error();
            peer.input = match peer.input {
                Input::Ended | Input::Violated | Input::Closing => peer.input,
                Input::Dry | Input::Waiting if is_closing => Input::Closing,
                Input::Dry | Input::Waiting => Input::Waiting,
            };
            self.queue_turn(id);
        }
        if event.is_writable() || event.is_write_closed() {
            self.queue_unsent(id);
        }
    }

    /// Gives each waiting connection a turn, and appends what was asked.
    pub(crate) fn collect(&mut self, asked: &mut Vec<Asked>, now: Instant) {
        for _ in 0..self.turns.len() {
            if asked.len() >= REQUESTS_A_ROUND {
                return;
            }
            let Some(id) = self.turns.pop_front() else { return };
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            peer.in_turns = false;
            let before = asked.len();
            let turn = peer.take_turn(id, &mut self.buffer, &mut self.counters.dropped, asked);
            self.counters.requests += (asked.len() - before) as u64;
            if !std::mem::replace(&mut peer.in_unsent, true) {
                self.unsent.push(id);
            }
            match turn {
                Ok(true) => self.queue_turn(id),
                Ok(false) => {}
                Err(violation) => {
                    peer.input = Input::Violated;
                    self.tell_violation(id, &violation, now);
                }
            }
        }
    }

    /// Whether a peer must read before it is answered again.
    pub(crate) fn is_held_up(&self, id: ConnectionId) -> bool {
        self.peers.get(&id).is_some_and(|peer| !peer.zmtp.wants_input())
    }

    /// Puts a reply on its way; a peer that is gone needs none.
    pub(crate) fn reply(&mut self, to: &ReplyTo, body: &Arc<[u8]>) {
        if let Some(peer) = self.peers.get_mut(&to.connection) {
            if peer.output != Output::Deaf {
                peer.zmtp.reply(&to.envelope, body);
            }
            self.queue_unsent(to.connection);
        }
    }

    /// Sends as much as the peers take.
    pub(crate) fn flush(&mut self) {
        for id in std::mem::take(&mut self.unsent) {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            peer.in_unsent = false;
            let held_up = !peer.zmtp.wants_input();
            match peer.send(&self.registry, id) {
                Err(error) => {
                    tracing::debug!(connection = id.0, %error, "the peer takes no more answers");
                    peer.turn_deaf();
                    peer.input = peer.input.at_its_end();
                    self.queue_turn(id);
                }
                // It has read: what it asked meanwhile is looked at.
                Ok(()) if held_up && peer.zmtp.wants_input() => self.queue_turn(id),
                Ok(()) if peer.is_done() => self.end(id),
                Ok(()) => {}
            }
        }
    }

    /// Takes waiting connections, and closes those for which there is no room.
    pub(crate) fn accept(&mut self, listener: &mut Listener, now: Instant) {
        if self.is_pausing(now) {
            return;
        }
        self.accept_again = None;
        for _ in 0..ACCEPTS_A_ROUND {
            // Without a reserve there is no way to close one connection more than there can be.
            if !self.reserve.refill() {
                self.accept_again = Some(now + ACCEPT_PAUSE);
                return;
            }
            match listener.accept() {
                Ok((stream, user)) => self.admit(stream, user, now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    listener.may_have_more = false;
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return self.shed(listener, &error, now),
            }
        }
    }

    /// Closes the connections whose handshake has taken too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, id)) = self.handshakes.front()
            && deadline <= now
        {
            self.handshakes.pop_front();
            if self.peers.get(&id).is_some_and(|peer| !peer.zmtp.is_open()) {
                let silent = Violation::Handshake("it is not done after 10 s");
                self.tell_violation(id, &silent, now);
                self.end(id);
            }
        }
    }

    /// Whether all replies are with the system. If not, `flush` and the poll go on.
    pub(crate) fn all_sent(&mut self) -> bool {
        self.peers.values_mut().all(|peer| peer.zmtp.output().is_empty())
    }

    /// Reads and forgets what peers still say. A TCP peer whose words are unread at our close
    /// would lose the reply on its way.
    pub(crate) fn discard_input(&mut self) {
        for peer in self.peers.values_mut() {
            for _ in 0..READS_A_TURN {
                if !matches!(peer.stream.read(&mut self.buffer), Ok(count) if count > 0) {
                    break;
                }
            }
        }
    }

    fn admit(&mut self, mut stream: Stream, user: User, now: Instant) {
        let held = self.per_user.get(&user).copied().unwrap_or(0);
        // No other user alone can take all the room.
        let share = if user == User::Trusted { self.limit } else { self.limit.div_ceil(2) };
        if self.is_full() || held >= share {
            self.counters.refused += 1;
            if let Some(held_back) = self.refused_log.admit(now) {
                let (refused, connections) = (self.counters.refused, self.peers.len());
                tracing::warn!(
                    ?user,
                    connections,
                    limit = self.limit,
                    refused,
                    held_back,
                    "too many connections: a new one was closed"
                );
            }
            return;
        }
        let id = ConnectionId(self.next_id);
        if let Err(error) = stream.register(&self.registry, Token(id.0), Interest::READABLE) {
            self.counters.refused += 1;
            self.accept_again = Some(now + ACCEPT_PAUSE);
            self.tell_shed(&error, now);
            return;
        }
        self.next_id += 1;
        self.counters.accepted += 1;
        *self.per_user.entry(user).or_default() += 1;
        self.handshakes.push_back((now + HANDSHAKE, id));
        let peer = Peer {
            stream,
            zmtp: Connection::new(),
            user,
            input: Input::Dry,
            output: Output::Flowing,
            in_turns: false,
            in_unsent: false,
        };
        self.peers.insert(id, peer);
        self.queue_unsent(id);
        tracing::trace!(connection = id.0, ?user, "connected");
    }

    /// The system could not give us a connection. With the reserve given up, those that wait are
    /// taken and closed, one after the other; the door then stays shut for a moment.
    fn shed(&mut self, listener: &mut Listener, error: &io::Error, now: Instant) {
        self.accept_again = Some(now + ACCEPT_PAUSE);
        for _ in 0..ACCEPTS_A_ROUND {
            // Dropped at once: its descriptor is the reserve's.
            match self.reserve.lend(|| listener.accept().map(drop)) {
                Ok(()) => self.counters.refused += 1,
                Err(error) => {
                    if error.kind() == io::ErrorKind::WouldBlock {
                        listener.may_have_more = false;
                        self.accept_again = None;
                    }
                    break;
                }
            }
        }
        self.tell_shed(error, now);
    }

    fn tell_shed(&mut self, error: &io::Error, now: Instant) {
        if let Some(held_back) = self.shed_log.admit(now) {
            let refused = self.counters.refused;
            tracing::warn!(%error, refused, held_back, "a connection could not be taken");
        }
    }

    fn tell_violation(&mut self, id: ConnectionId, violation: &Violation, now: Instant) {
        self.counters.violations += 1;
        if let Some(held_back) = self.violation_log.admit(now) {
            let user = self.peers.get(&id).map(|peer| peer.user);
            tracing::warn!(connection = id.0, ?user, held_back, "peer closed: {violation}");
        }
    }

    fn end(&mut self, id: ConnectionId) {
        let Some(mut peer) = self.peers.remove(&id) else { return };
        tracing::trace!(connection = id.0, "disconnected");
        if let Err(error) = peer.stream.deregister(&self.registry) {
            tracing::debug!(connection = id.0, %error, "closed without being unwatched");
        }
        if let Some(held) = self.per_user.get_mut(&peer.user) {
            *held -= 1;
            if *held == 0 {
                self.per_user.remove(&peer.user);
            }
        }
    }

    fn queue_turn(&mut self, id: ConnectionId) {
        if let Some(peer) = self.peers.get_mut(&id)
            && !std::mem::replace(&mut peer.in_turns, true)
        {
            self.turns.push_back(id);
        }
    }

    fn queue_unsent(&mut self, id: ConnectionId) {
        if let Some(peer) = self.peers.get_mut(&id)
            && !std::mem::replace(&mut peer.in_unsent, true)
        {
            self.unsent.push(id);
        }
    }
}

impl Peer {
    /// Whether the connection has nothing left to do.
    fn is_done(&mut self) -> bool {
        match self.input {
            Input::Ended => !self.in_turns && self.zmtp.output().is_empty(),
            Input::Violated => true,
            Input::Dry | Input::Waiting | Input::Closing => false,
        }
    }

    /// Reads what the peer asks, within bounds. True when there may be more.
    fn take_turn(
        &mut self,
        id: ConnectionId,
        buffer: &mut [u8],
        dropped: &mut u64,
        asked: &mut Vec<Asked>,
    ) -> Result<bool, Violation> {
        let (mut requests, mut bytes, mut reads) = (0, 0, 0);
        while self.input != Input::Violated {
            while let Some(event) = self.zmtp.next_event()? {
                match event {
                    Event::Request(request) => {
                        bytes += request.bytes();
                        let to = ReplyTo { connection: id, envelope: request.envelope };
                        asked.push((to, request.body));
                        requests += 1;
                    }
                    Event::Dropped => *dropped += 1,
                }
                if requests == REQUESTS_A_TURN || bytes > BYTES_A_TURN {
                    return Ok(true);
                }
            }
            let may_read = matches!(self.input, Input::Waiting | Input::Closing);
            if !may_read || !self.zmtp.wants_input() {
                return Ok(false);
            }
            if reads == READS_A_TURN {
                return Ok(true);
            }
            reads += 1;
            self.read(buffer);
        }
        Ok(false)
    }

    fn read(&mut self, buffer: &mut [u8]) {
        match self.stream.read(buffer) {
            Ok(0) => self.input = Input::Ended,
            Ok(count) => {
                // A short read leaves nothing behind that the poll will not tell of, except to a
                // peer that mixes descriptors or urgent bytes in: it waits until its next bytes.
                if count < buffer.len() && self.input == Input::Waiting {
                    self.input = Input::Dry;
                }
                self.zmtp.receive(&buffer[..count]);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.input = Input::Dry,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => {
                self.turn_deaf();
                self.input = Input::Ended;
            }
        }
    }

    /// Sends as much as the peer takes.
    fn send(&mut self, registry: &Registry, id: ConnectionId) -> io::Result<()> {
        while !self.zmtp.output().is_empty() {
            match self.stream.write(&self.zmtp.output().slices()) {
                Ok(count) => self.zmtp.output().advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.set_output(registry, id, Output::Stuck);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.set_output(registry, id, Output::Flowing)
    }

    fn turn_deaf(&mut self) {
        self.output = Output::Deaf;
        self.zmtp.forget_output();
    }

    fn set_output(
        &mut self,
        registry: &Registry,
        id: ConnectionId,
        output: Output,
    ) -> io::Result<()> {
        if self.output == output || self.output == Output::Deaf {
            return Ok(());
        }
        self.output = output;
        let both = Interest::READABLE | Interest::WRITABLE;
        let interest = if output == Output::Stuck { both } else { Interest::READABLE };
        self.stream.reregister(registry, Token(id.0), interest)
    }
}
