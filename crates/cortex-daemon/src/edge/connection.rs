//! One peer's connection: it reads requests and sends replies.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Event as PollEvent;
use mio::{Interest, Registry as PollRegistry, Token};

use super::blocked_peers::BlockedPeer;
use super::credentials::Credentials;
use super::decode::{Source, decode};
use super::processes::Processes;
use super::stream::Stream;
use crate::peer::ConnectionId;
use crate::registry::PeerRequest;
use crate::zmtp::{Engine, Envelope, Incoming, Violation};

/// The most requests that a connection reads in one turn.
const MAX_TURN_REQUESTS: usize = 64;
/// A connection's turn ends when its requests have more bytes than this.
const MAX_TURN_BYTES: usize = 64 * 1024;
/// The most `read` calls for a connection in one turn.
const MAX_TURN_READS: usize = 4;

/// A peer that connects to send a request sends it within this time.
const FIRST_REQUEST_TIME: Duration = Duration::from_millis(100);

/// A peer's connection.
pub(super) struct Connection {
    pub(super) stream: Stream,
    engine: Engine,
    pub(super) credentials: Credentials,
    read_state: ReadState,
    /// When the poll last reported that something has come from the peer.
    heard_at: Instant,
    /// Before the oldest request that the daemon has not read yet can have come.
    input_since: Instant,
    /// Until this time the peer's first request may still arrive.
    first_request_by: Instant,
    write_state: WriteState,
    /// The number of requests that were read and not answered yet.
    unanswered: usize,
    pace: Pace,
    /// The number of unsent bytes when [`Connections`](super::connections) last added them up.
    pub(super) last_unsent: usize,
    /// The daemon reads no requests for now.
    pub(super) is_held: bool,
    /// The connection is in the queue of turns.
    pub(super) in_turns: bool,
    /// The connection is in the list of connections to flush.
    pub(super) in_unsent: bool,
}

/// How the peer sends its requests, as far as the daemon has seen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    OneByOne,
    /// Several have come at once. Such a peer does not wait for its replies, so it is no REQ socket
    /// of libzmq, whatever it says.
    Pipelined,
}

/// Whether the daemon can send to the peer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WriteState {
    Flowing,
    /// The socket's send buffer is full, and the poll reports when it has room. Only in this state
    /// the poll watches for room: otherwise it would report after each reply that the peer reads.
    Blocked,
    /// The peer reads no more replies. Its requests still count: a node that unregisters its topics
    /// and exits does not wait for the replies.
    Closed,
}

/// What the daemon can still read from the peer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReadState {
    /// Nothing until the poll reports that the socket is readable.
    Idle,
    /// Maybe some bytes.
    Readable,
    /// Maybe some bytes, then the end of the stream: the peer has closed its side.
    Closing,
    /// Nothing: the daemon has read the end of the stream.
    Ended,
    /// Nothing: the peer broke the protocol. Its earlier requests are answered, then the connection
    /// is closed.
    Violated,
}

impl ReadState {
    /// The state after the peer has closed its side. The socket may still have bytes from before.
    fn closing(self) -> Self {
        match self {
            Self::Idle | Self::Readable | Self::Closing => Self::Closing,
            Self::Ended | Self::Violated => self,
        }
    }
}

impl Connection {
    /// A connection that was just accepted, and has come after `since`.
    pub(super) fn new(
        stream: Stream,
        credentials: Credentials,
        since: Instant,
        now: Instant,
    ) -> Self {
        Self {
            stream,
            engine: Engine::new(),
            credentials,
            read_state: ReadState::Idle,
            heard_at: now,
            input_since: since,
            first_request_by: now + FIRST_REQUEST_TIME,
            write_state: WriteState::Flowing,
            unanswered: 0,
            pace: Pace::OneByOne,
            last_unsent: 0,
            is_held: false,
            in_turns: false,
            in_unsent: false,
        }
    }

    /// Updates the read state after an event of the poll, which has come since `last_poll`. True: the
    /// connection needs a turn.
    pub(super) fn mark(&mut self, event: &PollEvent, last_poll: Instant, now: Instant) -> bool {
        if event.is_readable() {
            self.heard_at = now;
            if !self.may_have_input() {
                self.input_since = last_poll;
            }
        }
        let is_closing = event.is_read_closed() || event.is_error();
        if is_closing {
            self.read_state = self.read_state.closing();
        } else if event.is_readable() && self.read_state == ReadState::Idle {
            self.read_state = ReadState::Readable;
        }
        is_closing || event.is_readable()
    }

    /// Before the oldest request that waits unread can have come; `None` if none does.
    pub(super) fn unread_since(&self, now: Instant) -> Option<Instant> {
        let may_have_input = self.may_have_input() || now < self.first_request_by;
        may_have_input.then_some(self.input_since)
    }

    /// Before the last requests that the daemon has read can have come.
    pub(super) fn input_since(&self) -> Instant {
        self.input_since
    }

    fn may_have_input(&self) -> bool {
        self.in_turns || matches!(self.read_state, ReadState::Readable | ReadState::Closing)
    }

    /// When the daemon gives the peer up, unless something comes before: the peer's heartbeats have
    /// announced a time to live.
    pub(super) fn silent_until(&self, now: Instant) -> Option<Instant> {
        let ttl = self.engine.heartbeat_ttl()?;
        let is_ended = matches!(self.read_state, ReadState::Ended | ReadState::Violated);
        let end = self.heard_at + ttl;
        // Under backpressure, or when the daemon stood still, bytes wait that it has not read.
        let end = if end <= now && self.stream.has_input() { now + ttl } else { end };
        (!is_ended).then_some(end)
    }

    /// Whether this is a TCP connection that takes no more bytes.
    pub(super) fn is_blocked_tcp(&self) -> bool {
        self.write_state == WriteState::Blocked && self.stream.is_tcp()
    }

    /// What the check of a blocked TCP connection needs.
    pub(super) fn blocked_peer(&self, id: ConnectionId) -> Option<BlockedPeer> {
        let inode = self.is_blocked_tcp().then(|| self.stream.inode().ok())??;
        Some(BlockedPeer { id, inode, heard_at: self.heard_at })
    }

    /// Whether the handshake is done.
    pub(super) fn is_open(&self) -> bool {
        self.engine.is_open()
    }

    /// Whether the peer must read some replies before the daemon reads more of its requests.
    pub(super) fn has_backpressure(&self) -> bool {
        !self.engine.wants_read()
    }

    /// Whether all replies are sent.
    pub(super) fn is_all_sent(&mut self) -> bool {
        self.engine.output().is_empty()
    }

    /// The number of unsent bytes.
    pub(super) fn unsent(&mut self) -> usize {
        self.engine.output().len()
    }

    /// The memory of the unsent bytes: see [`Output::memory`](crate::zmtp::Output::memory).
    pub(super) fn unsent_memory(&mut self, seen: &mut HashSet<usize>) -> usize {
        self.engine.output().memory(seen)
    }

    /// Queues a reply.
    pub(super) fn reply(&mut self, envelope: &Envelope, body: &Arc<[u8]>) {
        self.finish_request();
        if self.write_state != WriteState::Closed {
            self.engine.reply(envelope, body);
        }
    }

    /// One request less is unanswered.
    pub(super) fn finish_request(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// Whether the peer has closed its side, or broken the protocol, before all requests are
    /// answered.
    pub(super) fn is_disconnected(&self) -> bool {
        self.unanswered > 0 && matches!(self.read_state, ReadState::Ended | ReadState::Violated)
    }

    /// Stops sending, because the peer reads no more. The daemon still reads the peer's requests.
    pub(super) fn stop_sending(&mut self) {
        self.close_write();
        self.read_state = self.read_state.closing();
    }

    /// Reads and discards bytes of the peer.
    pub(super) fn discard_input(&mut self, buffer: &mut [u8]) {
        for _ in 0..MAX_TURN_READS {
            if !matches!(self.stream.read(buffer), Ok(count) if count > 0) {
                break;
            }
        }
    }

    /// Whether the daemon can close the connection.
    pub(super) fn is_done(&mut self) -> bool {
        match self.read_state {
            ReadState::Ended => !self.in_turns && self.unanswered == 0 && self.is_all_sent(),
            ReadState::Violated => true,
            ReadState::Idle | ReadState::Readable | ReadState::Closing => false,
        }
    }

    /// Reads a bounded number of requests. True: there may be more. After a violation the daemon
    /// reads nothing more from the peer.
    pub(super) fn take_turn(
        &mut self,
        id: ConnectionId,
        buffer: &mut [u8],
        processes: &Processes,
        dropped: &mut u64,
        received: &mut Vec<PeerRequest>,
    ) -> Result<bool, Violation> {
        if self.is_held {
            return Ok(false);
        }
        let before = received.len();
        let turn = self.read_requests(id, buffer, processes, dropped, received);
        let new = &mut received[before..];
        self.unanswered += new.len();
        if new.len() > 1 {
            self.pace = Pace::Pipelined;
        }
        for request in new {
            request.is_req &= self.pace == Pace::OneByOne;
        }
        turn.inspect_err(|_| self.read_state = ReadState::Violated)
    }

    fn read_requests(
        &mut self,
        id: ConnectionId,
        buffer: &mut [u8],
        processes: &Processes,
        dropped: &mut u64,
        received: &mut Vec<PeerRequest>,
    ) -> Result<bool, Violation> {
        let (mut requests, mut bytes, mut reads) = (0, 0, 0);
        while self.read_state != ReadState::Violated {
            while let Some(event) = self.engine.next_incoming()? {
                match event {
                    Incoming::Request(message) => {
                        bytes += message.bytes();
                        let (credentials, is_req) = (self.credentials, self.engine.is_req());
                        let source = Source { connection: id, credentials, is_req };
                        received.push(decode(source, message, processes));
                        requests += 1;
                    }
                    Incoming::Dropped => *dropped += 1,
                }
                if requests == MAX_TURN_REQUESTS || bytes > MAX_TURN_BYTES {
                    return Ok(true);
                }
            }
            let may_read = matches!(self.read_state, ReadState::Readable | ReadState::Closing);
            if !may_read || !self.engine.wants_read() {
                return Ok(false);
            }
            if reads == MAX_TURN_READS {
                return Ok(true);
            }
            reads += 1;
            self.read(buffer);
        }
        Ok(false)
    }

    fn read(&mut self, buffer: &mut [u8]) {
        match self.stream.read(buffer) {
            Ok(0) => self.read_state = ReadState::Ended,
            Ok(count) => {
                // After a short read the socket is empty, and the poll reports new bytes. The
                // exception is a peer that also sends descriptors or urgent bytes: the rest of
                // its bytes waits until it sends more.
                if count < buffer.len() && self.read_state == ReadState::Readable {
                    self.read_state = ReadState::Idle;
                }
                self.engine.receive(&buffer[..count]);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.read_state = ReadState::Idle;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => {
                self.close_write();
                self.read_state = ReadState::Ended;
            }
        }
    }

    /// Sends bytes until all are sent or the socket's send buffer is full.
    pub(super) fn send(
        &mut self,
        poll_registry: &PollRegistry,
        id: ConnectionId,
    ) -> io::Result<()> {
        while !self.engine.output().is_empty() {
            match self.stream.write(&self.engine.output().slices()) {
                Ok(count) => self.engine.output().advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.set_write_state(poll_registry, id, WriteState::Blocked);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.set_write_state(poll_registry, id, WriteState::Flowing)
    }

    fn close_write(&mut self) {
        self.write_state = WriteState::Closed;
        self.engine.clear_output();
    }

    fn set_write_state(
        &mut self,
        poll_registry: &PollRegistry,
        id: ConnectionId,
        state: WriteState,
    ) -> io::Result<()> {
        if self.write_state == state || self.write_state == WriteState::Closed {
            return Ok(());
        }
        self.write_state = state;
        let both = Interest::READABLE | Interest::WRITABLE;
        let is_blocked = state == WriteState::Blocked;
        self.stream.set_blocked(is_blocked);
        let interest = if is_blocked { both } else { Interest::READABLE };
        self.stream.reregister(poll_registry, Token(id.0), interest)
    }
}
