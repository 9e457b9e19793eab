//! One peer's conversation: greeting, READY, then requests and replies.

use std::sync::Arc;

use super::frame::{Frame, FrameReader, Payload, push_command, push_message_header};
use super::greeting::{self, GREETING};
use super::limits::{MAX_ENVELOPE, MAX_REFUSED_BODY, MAX_UNSENT};
use super::output::Output;
use super::ready::{self, SocketType};
use super::violation::Violation;

/// The server's side of a ZMTP connection.
///
/// Feed it with [`receive`](Self::receive), ask it for [`next_incoming`](Self::next_incoming) until
/// there is none, answer with [`reply`](Self::reply), and send what
/// [`output`](Self::output) holds.
#[derive(Debug)]
pub struct Engine {
    phase: Phase,
    is_req: bool,
    frames: FrameReader,
    message: PartialMessage,
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Greeting,
    Handshake,
    Open,
}

/// A message whose frames are still coming.
#[derive(Debug, Default)]
struct PartialMessage {
    envelope: Envelope,
    has_delimiter: bool,
    body: Option<Body>,
    /// The frames behind the delimiter.
    parts: usize,
    /// The bytes in them.
    size: u64,
}

/// The frames before a request's delimiter, as bytes of the wire: the reply starts with them.
/// A plain REQ sends none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Envelope(Vec<u8>);

impl Envelope {
    /// How many bytes it takes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// What a peer did.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// It asked for something and is owed one reply.
    Request(Request),
    /// It sent a message that cannot be answered, since it has no delimiter or nothing behind it.
    Dropped,
}

/// A request: to be answered exactly once, with its envelope.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// What the reply starts with.
    pub envelope: Envelope,
    /// What was asked.
    pub body: Body,
}

/// The body of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    /// One part, of at most [`MAX_BODY`](super::MAX_BODY) bytes.
    Whole(Vec<u8>),
    /// One part of more bytes than that; they are gone.
    TooLong {
        /// How many bytes it had.
        length: usize,
    },
    /// Several parts where the protocol has one; they are gone.
    SeveralParts {
        /// How many there were.
        count: usize,
    },
}

impl Request {
    /// About how many bytes it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let body = if let Body::Whole(bytes) = &self.body { bytes.len() } else { 0 };
        self.envelope.0.len() + body
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine {
    /// A connection that was just accepted. It has our greeting to send: libzmq sends its own
    /// first 10 bytes and then waits for ours.
    #[must_use]
    pub fn new() -> Self {
        let mut output = Output::default();
        output.append(|bytes| bytes.extend(GREETING));
        Self {
            phase: Phase::Greeting,
            is_req: false,
            frames: FrameReader::default(),
            message: PartialMessage::default(),
            output,
        }
    }

    /// Whether the handshake is done.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether the peer said that it is a REQ socket, which waits for one reply at a time.
    #[must_use]
    pub fn is_req(&self) -> bool {
        self.is_req
    }

    /// Whether the peer may be listened to: it has room for our answers.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        self.output.len() < MAX_UNSENT
    }

    /// What is to be sent.
    #[must_use]
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Forgets what is to be sent: the peer takes no more, but what it asked still counts.
    pub fn clear_output(&mut self) {
        self.output.clear();
    }

    /// Takes bytes that the peer sent.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.frames.receive(bytes);
    }

    /// The next thing that the peer did. `None`: more bytes are needed, or the peer must first
    /// read what it was sent (see [`wants_read`](Self::wants_read)).
    ///
    /// # Errors
    /// When the peer broke the protocol. The connection must be closed then; `output` may hold
    /// an ERROR command that tells the peer why.
    pub fn next_incoming(&mut self) -> Result<Option<Incoming>, Violation> {
        while self.wants_read() {
            if self.phase == Phase::Greeting {
                if !self.read_greeting()? {
                    return Ok(None);
                }
                continue;
            }
            match self.frames.next()? {
                None => return Ok(None),
                Some(Frame::Command(command)) => self.handle_command(&command)?,
                Some(Frame::Message { .. }) if self.phase == Phase::Handshake => {
                    return Err(Violation::Handshake("a message came before READY"));
                }
                Some(Frame::Message { more, payload }) => {
                    self.message.add(more, payload)?;
                    if !more {
                        return Ok(Some(std::mem::take(&mut self.message).finish()));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Answers a request with one part. Replies go out in the order of these calls.
    pub fn reply(&mut self, envelope: &Envelope, body: &Arc<[u8]>) {
        self.output.append(|bytes| {
            bytes.extend_from_slice(&envelope.0);
            push_message_header(bytes, true, 0);
            push_message_header(bytes, false, body.len());
        });
        self.output.append_shared(body);
    }

    /// Takes the greeting, when it is whole, and answers with READY.
    fn read_greeting(&mut self) -> Result<bool, Violation> {
        let arrived = self.frames.unread();
        let arrived = &arrived[..arrived.len().min(greeting::LENGTH)];
        greeting::check(arrived)?;
        if arrived.len() < greeting::LENGTH {
            return Ok(false);
        }
        self.frames.consume(greeting::LENGTH);
        self.output.append(ready::push_ready);
        self.phase = Phase::Handshake;
        Ok(true)
    }

    fn handle_command(&mut self, command: &[u8]) -> Result<(), Violation> {
        let (name, data) = ready::split_name(command)?;
        match name {
            b"ERROR" => {
                let reason = String::from_utf8_lossy(data.get(1..).unwrap_or_default());
                Err(Violation::PeerError(reason.into_owned()))
            }
            _ if self.phase == Phase::Handshake => {
                let socket = ready::parse(command).inspect_err(|violation| {
                    self.output.append(|bytes| ready::push_error(bytes, &violation.to_string()));
                })?;
                self.is_req = socket == SocketType::Req;
                self.phase = Phase::Open;
                Ok(())
            }
            // A heartbeat: a time to live in tenths of a second, which we do not need, and a
            // context that goes back.
            b"PING" => {
                let context = data.get(2..).unwrap_or_default();
                self.output.append(|bytes| push_command(bytes, "PONG", context));
                Ok(())
            }
            // RFC 37 has others (PONG, SUBSCRIBE …); none asks for an answer.
            _ => Ok(()),
        }
    }
}

impl PartialMessage {
    /// Takes one more frame.
    fn add(&mut self, more: bool, payload: Payload) -> Result<(), Violation> {
        if !self.has_delimiter {
            return self.add_to_envelope(more, &payload);
        }
        self.parts += 1;
        let (length, body) = match payload {
            Payload::Whole(bytes) => (bytes.len(), Body::Whole(bytes)),
            Payload::TooLong(length) => (length, Body::TooLong { length }),
        };
        // An empty part counts as a byte, so that no message can have parts without end.
        self.size += length.max(1) as u64;
        if self.size > MAX_REFUSED_BODY as u64 {
            return Err(Violation::RequestTooLong(self.size));
        }
        // Of several parts none is kept.
        let count = self.parts;
        self.body = Some(if count == 1 { body } else { Body::SeveralParts { count } });
        Ok(())
    }

    fn add_to_envelope(&mut self, more: bool, payload: &Payload) -> Result<(), Violation> {
        match payload {
            Payload::Whole(bytes) if bytes.is_empty() => self.has_delimiter = true,
            // The last frame, and no delimiter yet: the message will be dropped.
            _ if !more => {}
            Payload::Whole(bytes) => {
                push_message_header(&mut self.envelope.0, true, bytes.len());
                self.envelope.0.extend_from_slice(bytes);
                if self.envelope.0.len() > MAX_ENVELOPE {
                    return Err(Violation::EnvelopeTooLong);
                }
            }
            Payload::TooLong(_) => return Err(Violation::EnvelopeTooLong),
        }
        Ok(())
    }

    fn finish(self) -> Incoming {
        match self.body {
            Some(body) => Incoming::Request(Request { envelope: self.envelope, body }),
            None => Incoming::Dropped,
        }
    }
}
