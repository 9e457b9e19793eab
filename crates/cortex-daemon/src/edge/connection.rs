//! One peer's connection: reading what it asks, and sending what it is answered.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use mio::event::Event as PollEvent;
use mio::{Interest, Registry as PollRegistry, Token};

use super::credentials::Credentials;
use super::stream::Stream;
use crate::peer::{ConnectionId, ReplyTo};
use crate::zmtp::{Body, Engine, Envelope, Incoming, Violation};

/// The most requests taken from one peer in one turn.
const MAX_TURN_REQUESTS: usize = 64;
/// With more bytes than this in its requests, a peer's turn is over.
const MAX_TURN_BYTES: usize = 64 * 1024;
/// The most reads from one peer in one turn.
const MAX_TURN_READS: usize = 4;

/// A request: where its reply goes, who sent it, and what it is.
pub(crate) struct Received {
    pub(crate) from: ReplyTo,
    pub(crate) peer: Credentials,
    /// Whether the peer is a REQ socket.
    pub(crate) is_req: bool,
    pub(crate) body: Body,
}

pub(super) struct Connection {
    pub(super) stream: Stream,
    engine: Engine,
    pub(super) credentials: Credentials,
    read_state: ReadState,
    write_state: WriteState,
    /// Requests that were taken from it and are not answered yet.
    unanswered: usize,
    /// The bytes that it still has to be sent, when they were last counted.
    pub(super) last_unsent: usize,
    /// It stands in the queue of those with something to do.
    pub(super) in_turns: bool,
    /// It stands in the list of those that may have something to send.
    pub(super) in_unsent: bool,
}

/// Whether a peer takes what it is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WriteState {
    Flowing,
    /// Something is stuck, and the poll tells when there is room. It is asked only then: it would
    /// tell after each reply that the peer reads.
    Blocked,
    /// It takes no more, but what it has asked still counts: a node that unregisters its topics
    /// and ends does not wait for the answers.
    Closed,
}

/// What there may be to read from a peer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReadState {
    /// Nothing; the poll tells when there is.
    Idle,
    /// Something.
    Readable,
    /// Something, and then the end: the peer has closed its side, or is gone.
    Closing,
    /// The end has been read.
    Ended,
    /// The peer broke the protocol: it is answered what it had asked before, and closed.
    Violated,
}

impl ReadState {
    /// What a peer that has closed its side may still have sent comes before the end.
    fn closing(self) -> Self {
        match self {
            Self::Idle | Self::Readable | Self::Closing => Self::Closing,
            Self::Ended | Self::Violated => self,
        }
    }
}

impl Connection {
    /// A peer that has just connected.
    pub(super) fn new(stream: Stream, credentials: Credentials) -> Self {
        Self {
            stream,
            engine: Engine::new(),
            credentials,
            read_state: ReadState::Idle,
            write_state: WriteState::Flowing,
            unanswered: 0,
            last_unsent: 0,
            in_turns: false,
            in_unsent: false,
        }
    }

    /// Notes what the poll says of its input. True when it has something to do.
    pub(super) fn mark(&mut self, event: &PollEvent) -> bool {
        let is_closing = event.is_read_closed() || event.is_error();
        if is_closing {
            self.read_state = self.read_state.closing();
        } else if event.is_readable() && self.read_state == ReadState::Idle {
            self.read_state = ReadState::Readable;
        }
        is_closing || event.is_readable()
    }

    /// Whether its handshake is done.
    pub(super) fn is_open(&self) -> bool {
        self.engine.is_open()
    }

    /// Whether it must read before it is listened to again.
    pub(super) fn has_backpressure(&self) -> bool {
        !self.engine.wants_read()
    }

    /// Whether it has been sent all that there is for it.
    pub(super) fn is_all_sent(&mut self) -> bool {
        self.engine.output().is_empty()
    }

    /// The bytes that it still has to be sent.
    pub(super) fn unsent(&mut self) -> usize {
        self.engine.output().len()
    }

    /// The memory that they take: see [`Output::memory`](crate::zmtp::Output::memory).
    pub(super) fn unsent_memory(&mut self, seen: &mut HashSet<usize>) -> usize {
        self.engine.output().memory(seen)
    }

    /// Puts a reply on its way.
    pub(super) fn reply(&mut self, envelope: &Envelope, body: &Arc<[u8]>) {
        self.finish_request();
        if self.write_state != WriteState::Closed {
            self.engine.reply(envelope, body);
        }
    }

    /// A request of it will not be answered.
    pub(super) fn finish_request(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// Whether it waits for answers that nobody will read: its end has come.
    pub(super) fn is_disconnected(&self) -> bool {
        self.unanswered > 0 && matches!(self.read_state, ReadState::Ended | ReadState::Violated)
    }

    /// It takes no more answers; what it has asked is still read.
    pub(super) fn stop_sending(&mut self) {
        self.close_write();
        self.read_state = self.read_state.closing();
    }

    /// Reads and forgets what it still says.
    pub(super) fn discard_input(&mut self, buffer: &mut [u8]) {
        for _ in 0..MAX_TURN_READS {
            if !matches!(self.stream.read(buffer), Ok(count) if count > 0) {
                break;
            }
        }
    }

    /// Whether the connection has nothing left to do.
    pub(super) fn is_done(&mut self) -> bool {
        match self.read_state {
            ReadState::Ended => !self.in_turns && self.unanswered == 0 && self.is_all_sent(),
            ReadState::Violated => true,
            ReadState::Idle | ReadState::Readable | ReadState::Closing => false,
        }
    }

    /// Reads what the peer asks, within bounds. True when there may be more. When it breaks the
    /// protocol, nothing more is read from it.
    pub(super) fn take_turn(
        &mut self,
        id: ConnectionId,
        buffer: &mut [u8],
        dropped: &mut u64,
        received: &mut Vec<Received>,
    ) -> Result<bool, Violation> {
        let before = received.len();
        let turn = self.read_requests(id, buffer, dropped, received);
        self.unanswered += received.len() - before;
        turn.inspect_err(|_| self.read_state = ReadState::Violated)
    }

    fn read_requests(
        &mut self,
        id: ConnectionId,
        buffer: &mut [u8],
        dropped: &mut u64,
        received: &mut Vec<Received>,
    ) -> Result<bool, Violation> {
        let (mut requests, mut bytes, mut reads) = (0, 0, 0);
        while self.read_state != ReadState::Violated {
            while let Some(event) = self.engine.next_incoming()? {
                match event {
                    Incoming::Request(request) => {
                        bytes += request.bytes();
                        let to = ReplyTo { connection: id, envelope: request.envelope };
                        let peer = self.credentials;
                        let (is_req, body) = (self.engine.is_req(), request.body);
                        received.push(Received { from: to, peer, is_req, body });
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
                // A short read leaves nothing behind that the poll will not tell of, except to a
                // peer that mixes descriptors or urgent bytes in: it waits until its next bytes.
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

    /// Sends as much as the peer takes.
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
        let interest = if state == WriteState::Blocked { both } else { Interest::READABLE };
        self.stream.reregister(poll_registry, Token(id.0), interest)
    }
}
