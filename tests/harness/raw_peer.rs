//! A ZMTP peer that can send any bytes, valid or not, split anywhere.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::time::Duration;

use cortex_proto::{DiscoveryRequest, DiscoveryResponse};

use crate::deadline::TIMEOUT;

/// More frames of the message follow.
pub const MORE: u8 = 0x01;
/// The length has eight bytes.
pub const LONG: u8 = 0x02;
/// The frame is a command.
pub const COMMAND: u8 = 0x04;

/// The length of a greeting in bytes.
pub const GREETING_LENGTH: usize = 64;

/// The greeting of ZMTP 3.1 with the mechanism NULL.
#[must_use]
pub fn greeting() -> Vec<u8> {
    greeting_of((3, 1), b"NULL")
}

/// A greeting with another version or mechanism.
///
/// # Panics
/// When the mechanism's name is longer than 20 bytes.
#[must_use]
pub fn greeting_of(version: (u8, u8), mechanism: &[u8]) -> Vec<u8> {
    let mut greeting = vec![0; GREETING_LENGTH];
    greeting[0] = 0xff;
    greeting[8] = 1;
    greeting[9] = 0x7f;
    (greeting[10], greeting[11]) = version;
    greeting[12..32][..mechanism.len()].copy_from_slice(mechanism);
    greeting
}

/// A frame with the shortest possible length field.
#[must_use]
pub fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    u8::try_from(body.len())
        .map_or_else(|_| long_frame(flags, body), |length| [&[flags, length], body].concat())
}

/// A frame whose length field has eight bytes, whatever its size.
#[must_use]
pub fn long_frame(flags: u8, body: &[u8]) -> Vec<u8> {
    [&long_frame_header(flags, body.len() as u64)[..], body].concat()
}

/// The header of a frame that claims this length.
#[must_use]
pub fn long_frame_header(flags: u8, length: u64) -> Vec<u8> {
    [&[flags | LONG][..], &length.to_be_bytes()].concat()
}

/// A command frame.
///
/// # Panics
/// When the name is longer than 255 bytes.
#[must_use]
pub fn command(name: &str, data: &[u8]) -> Vec<u8> {
    let length = u8::try_from(name.len()).unwrap();
    frame(COMMAND, &[&[length], name.as_bytes(), data].concat())
}

/// The READY of a peer with this socket type and further properties.
#[must_use]
pub fn ready(socket_type: &str, further: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = property("Socket-Type", socket_type.as_bytes());
    for (name, value) in further {
        data.extend(property(name, value));
    }
    command("READY", &data)
}

fn property(name: &str, value: &[u8]) -> Vec<u8> {
    let name_length = u8::try_from(name.len()).unwrap();
    let value_length = u32::try_from(value.len()).unwrap();
    [&[name_length], name.as_bytes(), &value_length.to_be_bytes(), value].concat()
}

/// A message of these frames.
#[must_use]
pub fn message(frames: &[&[u8]]) -> Vec<u8> {
    let last = frames.len() - 1;
    let flags = |index| if index == last { 0 } else { MORE };
    frames.iter().enumerate().flat_map(|(index, body)| frame(flags(index), body)).collect()
}

/// The message that a REQ socket sends for a request: an empty delimiter and the body.
#[must_use]
pub fn request_message(body: &[u8]) -> Vec<u8> {
    message(&[b"", body])
}

/// One received frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// [`MORE`], [`LONG`] and [`COMMAND`].
    pub flags: u8,
    /// The bytes after the length.
    pub body: Vec<u8>,
}

/// What a peer sends after the handshake: ZMTP calls it traffic.
#[derive(Debug, PartialEq, Eq)]
pub enum Traffic {
    /// The frames of a message.
    Message(Vec<Vec<u8>>),
    /// A command's name and data.
    Command(String, Vec<u8>),
}

impl Traffic {
    /// The body of a reply to a REQ: an empty delimiter and one frame.
    #[must_use]
    pub fn into_reply(self) -> Option<Vec<u8>> {
        match self {
            Self::Message(frames) => match <[Vec<u8>; 2]>::try_from(frames) {
                Ok([delimiter, body]) if delimiter.is_empty() => Some(body),
                Ok(_) | Err(_) => None,
            },
            Self::Command(..) => None,
        }
    }
}

/// A connection to a daemon.
pub struct RawPeer {
    stream: Stream,
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl RawPeer {
    /// Connects and sends nothing. Reads time out after [`TIMEOUT`].
    ///
    /// # Errors
    /// When the connection is refused.
    ///
    /// # Panics
    /// When the address is neither ipc nor tcp.
    pub fn connect(address: &str) -> io::Result<Self> {
        let stream = if let Some(name) = address.strip_prefix("ipc://@") {
            let address = UnixAddress::from_abstract_name(name)?;
            Stream::Unix(UnixStream::connect_addr(&address)?)
        } else if let Some(path) = address.strip_prefix("ipc://") {
            Stream::Unix(UnixStream::connect(path)?)
        } else if let Some(host) = address.strip_prefix("tcp://") {
            let stream = TcpStream::connect(host)?;
            stream.set_nodelay(true)?;
            Stream::Tcp(stream)
        } else {
            panic!("neither ipc nor tcp: {address}");
        };
        let peer = Self { stream };
        peer.set_read_timeout(TIMEOUT)?;
        Ok(peer)
    }

    /// Connects and completes the handshake as a REQ socket.
    ///
    /// # Errors
    /// When the handshake fails.
    pub fn open(address: &str) -> io::Result<Self> {
        let mut peer = Self::connect(address)?;
        peer.shake_hands("REQ")?;
        Ok(peer)
    }

    /// Completes the handshake with this socket type.
    ///
    /// # Errors
    /// When the handshake fails.
    pub fn shake_hands(&mut self, socket_type: &str) -> io::Result<()> {
        self.send(&greeting())?;
        self.send(&ready(socket_type, &[]))?;
        self.read_handshake()
    }

    /// Reads the daemon's greeting and READY.
    ///
    /// # Errors
    /// When the daemon sends something else.
    pub fn read_handshake(&mut self) -> io::Result<()> {
        self.read_greeting()?;
        let traffic = self.read_traffic()?;
        let is_ready = matches!(&traffic, Traffic::Command(name, _) if name == "READY");
        if is_ready { Ok(()) } else { Err(io::Error::other(format!("not READY: {traffic:?}"))) }
    }

    /// Reads a whole greeting.
    ///
    /// # Errors
    /// As [`Self::read_exactly`].
    pub fn read_greeting(&mut self) -> io::Result<Vec<u8>> {
        self.read_exactly(GREETING_LENGTH)
    }

    /// Sends these bytes.
    ///
    /// # Errors
    /// When the daemon has closed the connection.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends until the daemon has accepted no byte for `timeout`, and returns the number of sent
    /// bytes.
    ///
    /// # Errors
    /// When the daemon has closed the connection.
    pub fn send_what_fits(&mut self, bytes: &[u8], timeout: Duration) -> io::Result<usize> {
        match &self.stream {
            Stream::Unix(stream) => stream.set_write_timeout(Some(timeout))?,
            Stream::Tcp(stream) => stream.set_write_timeout(Some(timeout))?,
        }
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    /// Reads exactly `count` bytes.
    ///
    /// # Errors
    /// When the daemon closes the connection first, or sends nothing for the read timeout.
    pub fn read_exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads one frame.
    ///
    /// # Errors
    /// As [`Self::read_exactly`].
    ///
    /// # Panics
    /// When it claims a length of 1 GiB or more.
    pub fn read_frame(&mut self) -> io::Result<Frame> {
        let flags = self.read_exactly(1)?[0];
        let length = if flags & LONG == 0 {
            u64::from(self.read_exactly(1)?[0])
        } else {
            u64::from_be_bytes(self.read_exactly(8)?.try_into().unwrap())
        };
        assert!(length < 1 << 30, "a frame that claims {length} B");
        let body = self.read_exactly(usize::try_from(length).unwrap())?;
        Ok(Frame { flags, body })
    }

    /// Reads one message or command.
    ///
    /// # Errors
    /// As [`Self::read_exactly`]; when a command is malformed or inside a message.
    pub fn read_traffic(&mut self) -> io::Result<Traffic> {
        let mut frames = Vec::new();
        loop {
            let frame = self.read_frame()?;
            if frame.flags & COMMAND != 0 {
                return parse_command(&frame.body, frames.is_empty());
            }
            frames.push(frame.body);
            if frame.flags & MORE == 0 {
                return Ok(Traffic::Message(frames));
            }
        }
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// As [`Self::read_traffic`]; when the daemon sends something other than a reply.
    pub fn read_reply(&mut self) -> io::Result<Vec<u8>> {
        self.read_traffic()?.into_reply().ok_or_else(|| io::Error::other("not a reply"))
    }

    /// Sends a request's body and reads its reply.
    ///
    /// # Errors
    /// As [`Self::read_reply`].
    pub fn request_bytes(&mut self, body: &[u8]) -> io::Result<Vec<u8>> {
        self.send(&request_message(body))?;
        self.read_reply()
    }

    /// Sends a request and reads its reply.
    ///
    /// # Errors
    /// As [`Self::read_reply`]; when the reply cannot be decoded.
    pub fn request(&mut self, request: &DiscoveryRequest) -> io::Result<DiscoveryResponse> {
        let reply = self.request_bytes(&request.to_bytes())?;
        DiscoveryResponse::from_bytes(&reply).map_err(io::Error::other)
    }

    /// Sends a PING and checks the reply.
    ///
    /// # Errors
    /// As [`Self::request_bytes`]; when the reply is not a pong.
    pub fn ping(&mut self) -> io::Result<()> {
        let reply = self.request_bytes(&DiscoveryRequest::ping().to_bytes())?;
        match DiscoveryResponse::from_bytes(&reply) {
            Ok(response) if response.message == "pong" => Ok(()),
            other => Err(io::Error::other(format!("not a pong: {other:?}"))),
        }
    }

    /// Reads everything until the daemon closes the connection.
    ///
    /// # Errors
    /// When the daemon sends nothing for the read timeout and does not close the connection.
    pub fn read_to_close(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            // The system reports a close with unread bytes as a reset.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(bytes),
            Err(error) => Err(error),
        }
    }

    /// Reads available bytes. Returns no bytes after `timeout`, and `None` when the daemon has
    /// closed the connection.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn read_within(&mut self, timeout: Duration) -> io::Result<Option<Vec<u8>>> {
        self.set_read_timeout(timeout)?;
        let mut buffer = vec![0; 64 * 1024];
        let read = self.stream.read(&mut buffer);
        self.set_read_timeout(TIMEOUT)?;
        match read {
            Ok(0) => Ok(None),
            Ok(count) => Ok(Some(buffer[..count].to_vec())),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Some(Vec::new())),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match &self.stream {
            Stream::Unix(stream) => stream.set_read_timeout(Some(timeout)),
            Stream::Tcp(stream) => stream.set_read_timeout(Some(timeout)),
        }
    }
}

/// Opens a connection, sends a PING, checks the reply and closes the connection.
///
/// # Errors
/// When the daemon does not answer.
pub fn ping(address: &str) -> io::Result<()> {
    RawPeer::open(address)?.ping()
}

fn parse_command(body: &[u8], between_messages: bool) -> io::Result<Traffic> {
    let malformed = || io::Error::other(format!("a malformed command: {}", body.escape_ascii()));
    let (&length, rest) = body.split_first().ok_or_else(malformed)?;
    let (name, data) = rest.split_at_checked(length.into()).ok_or_else(malformed)?;
    let name = String::from_utf8(name.to_vec()).map_err(|_| malformed())?;
    if between_messages {
        Ok(Traffic::Command(name, data.to_vec()))
    } else {
        Err(io::Error::other(format!("{name} inside a message")))
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
