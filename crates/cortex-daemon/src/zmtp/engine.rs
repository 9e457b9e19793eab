//! The server side of one connection: greeting, READY, then requests and replies.

use std::sync::Arc;
use std::time::Duration;

use super::frame::{Frame, FrameReader, Payload, push_command, push_message_header};
use super::greeting::{self, GREETING};
use super::limits::{MAX_ENVELOPE, MAX_REFUSED_BODY, MAX_UNSENT};
use super::output::Output;
use super::ready::{self, SocketType};
use super::violation::Violation;

/// The ZMTP protocol state of one connection.
///
/// The caller passes the peer's bytes to [`receive`](Self::receive), calls
/// [`next_incoming`](Self::next_incoming) until it returns `None`, answers requests with
/// [`reply`](Self::reply), and sends the bytes of [`output`](Self::output).
#[derive(Debug)]
pub struct Engine {
    state: EngineState,
    is_req: bool,
    heartbeat_ttl: Option<Duration>,
    frames: FrameReader,
    message: PartialMessage,
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EngineState {
    Greeting,
    Handshake,
    Open,
}

/// A message of which some frames are still missing.
#[derive(Debug, Default)]
struct PartialMessage {
    envelope: Envelope,
    has_delimiter: bool,
    body: Option<Body>,
    /// The number of frames after the delimiter.
    parts: usize,
    /// Their size in bytes; an empty frame counts as one byte.
    size: u64,
}

/// The frames before a request's delimiter, encoded as on the wire. The reply starts with them.
/// A plain REQ socket sends none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Envelope(Vec<u8>);

impl Envelope {
    /// The envelope of a request with these frames before the delimiter.
    #[must_use]
    pub fn of_frames(frames: &[&[u8]]) -> Self {
        let mut envelope = Self::default();
        for frame in frames {
            envelope.push(frame);
        }
        envelope
    }

    fn push(&mut self, frame: &[u8]) {
        push_message_header(&mut self.0, true, frame.len());
        self.0.extend_from_slice(frame);
    }

    /// The size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// A whole message from the peer.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A request, which needs exactly one reply.
    Request(Request),
    /// A message without a delimiter or without a body. The daemon cannot answer it.
    Dropped,
}

/// A request of a peer.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// The frames that the reply starts with.
    pub envelope: Envelope,
    /// The frames after the delimiter.
    pub body: Body,
}

/// The body of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    /// One part, of at most [`MAX_BODY`](super::MAX_BODY) bytes.
    Whole(Vec<u8>),
    /// One longer part, whose bytes are discarded.
    TooLong {
        /// Its size in bytes.
        length: usize,
    },
    /// Several parts, which are discarded: a request of the protocol has one.
    SeveralParts {
        /// The number of parts.
        count: usize,
    },
}

impl Request {
    /// The size of envelope and body in bytes.
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
    /// The engine of a new connection. Its output starts with our greeting: libzmq sends the first
    /// 10 bytes of its own greeting and then waits for ours.
    #[must_use]
    pub fn new() -> Self {
        let mut output = Output::default();
        output.append(|bytes| bytes.extend(GREETING));
        Self {
            state: EngineState::Greeting,
            is_req: false,
            heartbeat_ttl: None,
            frames: FrameReader::default(),
            message: PartialMessage::default(),
            output,
        }
    }

    /// Whether the handshake is done.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state == EngineState::Open
    }

    /// Whether the peer is a REQ socket, which waits for the reply before its next request.
    #[must_use]
    pub fn is_req(&self) -> bool {
        self.is_req
    }

    /// The time to live that the peer's last heartbeat has announced. When nothing at all comes from
    /// the peer for this long, the caller should close the connection. `None`: a silent peer lives.
    #[must_use]
    pub fn heartbeat_ttl(&self) -> Option<Duration> {
        self.heartbeat_ttl
    }

    /// Whether the caller should read from the peer: false while too many bytes are unsent.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        self.output.len() < MAX_UNSENT
    }

    /// The bytes to send.
    #[must_use]
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Discards the bytes to send, because the peer reads no more. Its requests still count.
    pub fn clear_output(&mut self) {
        self.output.clear();
    }

    /// Takes bytes that the peer sent.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.frames.receive(bytes);
    }

    /// The peer's next message. `None`: the engine needs more bytes, or the peer must first read
    /// its replies (see [`wants_read`](Self::wants_read)).
    ///
    /// # Errors
    /// When the peer broke the protocol. The caller must then close the connection; `output` may
    /// end with an ERROR command that tells the peer the reason.
    pub fn next_incoming(&mut self) -> Result<Option<Incoming>, Violation> {
        while self.wants_read() {
            if self.state == EngineState::Greeting {
                if !self.read_greeting()? {
                    return Ok(None);
                }
                continue;
            }
            match self.frames.next()? {
                None => return Ok(None),
                Some(Frame::Command(command)) => self.handle_command(&command)?,
                Some(Frame::Message { .. }) if self.state == EngineState::Handshake => {
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

    /// Appends a reply with one part to the output.
    pub fn reply(&mut self, envelope: &Envelope, body: &Arc<[u8]>) {
        self.output.append(|bytes| {
            bytes.extend_from_slice(&envelope.0);
            push_message_header(bytes, true, 0);
            push_message_header(bytes, false, body.len());
        });
        self.output.append_shared(body);
    }

    /// Reads the greeting and answers with READY. False: some bytes of it are still missing.
    fn read_greeting(&mut self) -> Result<bool, Violation> {
        let arrived = self.frames.unread();
        let arrived = &arrived[..arrived.len().min(greeting::LENGTH)];
        greeting::check(arrived)?;
        if arrived.len() < greeting::LENGTH {
            return Ok(false);
        }
        self.frames.consume(greeting::LENGTH);
        self.output.append(ready::push_ready);
        self.state = EngineState::Handshake;
        Ok(true)
    }

    fn handle_command(&mut self, command: &[u8]) -> Result<(), Violation> {
        let (name, data) = ready::split_name(command)?;
        match name {
            b"ERROR" => {
                let reason = String::from_utf8_lossy(data.get(1..).unwrap_or_default());
                Err(Violation::PeerError(reason.into_owned()))
            }
            _ if self.state == EngineState::Handshake => {
                let socket = ready::parse(command).inspect_err(|violation| {
                    self.output.append(|bytes| ready::push_error(bytes, &violation.to_string()));
                })?;
                self.is_req = socket == SocketType::Req;
                self.state = EngineState::Open;
                Ok(())
            }
            // A heartbeat: a time to live in tenths of a second, and a context, which the daemon
            // sends back.
            b"PING" => {
                let (ttl, context) = match data.split_first_chunk() {
                    Some((ttl, context)) => (u16::from_be_bytes(*ttl), context),
                    None => (0, &[][..]),
                };
                let ttl = Duration::from_millis(100 * u64::from(ttl));
                self.heartbeat_ttl = Some(ttl).filter(|ttl| !ttl.is_zero());
                self.output.append(|bytes| push_command(bytes, "PONG", context));
                Ok(())
            }
            // The other commands of RFC 37 (PONG, SUBSCRIBE …) need no answer.
            _ => Ok(()),
        }
    }
}

impl PartialMessage {
    /// Adds the next frame.
    fn add(&mut self, more: bool, payload: Payload) -> Result<(), Violation> {
        if !self.has_delimiter {
            return self.add_to_envelope(more, &payload);
        }
        self.parts += 1;
        let (length, body) = match payload {
            Payload::Whole(bytes) => (bytes.len(), Body::Whole(bytes)),
            Payload::TooLong(length) => (length, Body::TooLong { length }),
        };
        // An empty part counts as one byte: this bounds the number of parts.
        self.size += length.max(1) as u64;
        if self.size > MAX_REFUSED_BODY as u64 {
            return Err(Violation::RequestTooLong(self.size));
        }
        // Discard all parts when there are several.
        let count = self.parts;
        self.body = Some(if count == 1 { body } else { Body::SeveralParts { count } });
        Ok(())
    }

    fn add_to_envelope(&mut self, more: bool, payload: &Payload) -> Result<(), Violation> {
        match payload {
            Payload::Whole(bytes) if bytes.is_empty() => self.has_delimiter = true,
            // The last frame of a message without a delimiter, which the engine drops.
            _ if !more => {}
            Payload::Whole(bytes) => {
                self.envelope.push(bytes);
                if self.envelope.len() > MAX_ENVELOPE {
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
