//! Peers that use libzmq sockets.

use cortex_proto::{DiscoveryRequest, DiscoveryResponse};
use zmq::{Context, DEALER, REQ, Socket, SocketType};

use crate::deadline::TIMEOUT;
use crate::messages::decode_response;

/// A libzmq socket that is connected to a daemon.
pub struct ZmqPeer {
    socket: Socket,
    /// Dropped after the socket.
    _context: Context,
}

impl ZmqPeer {
    /// Connects a REQ socket in a new context.
    #[must_use]
    pub fn req(address: &str) -> Self {
        Self::new(address, REQ, |_| Ok(()))
    }

    /// Connects a DEALER socket in a new context.
    #[must_use]
    pub fn dealer(address: &str) -> Self {
        Self::new(address, DEALER, |_| Ok(()))
    }

    /// Connects a socket in a new context, with options set before.
    #[must_use]
    pub fn new(
        address: &str,
        kind: SocketType,
        configure: impl FnOnce(&Socket) -> zmq::Result<()>,
    ) -> Self {
        Self::in_context(&Context::new(), address, kind, configure)
    }

    /// Connects a socket in a shared context, with options set before.
    ///
    /// # Panics
    /// When a libzmq call fails.
    #[must_use]
    pub fn in_context(
        context: &Context,
        address: &str,
        kind: SocketType,
        configure: impl FnOnce(&Socket) -> zmq::Result<()>,
    ) -> Self {
        let socket = context.socket(kind).unwrap();
        let timeout = i32::try_from(TIMEOUT.as_millis()).unwrap();
        socket.set_linger(0).unwrap();
        socket.set_rcvtimeo(timeout).unwrap();
        socket.set_sndtimeo(timeout).unwrap();
        configure(&socket).unwrap();
        socket.connect(address).unwrap();
        Self { socket, _context: context.clone() }
    }

    /// The libzmq socket.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Sends a request (REQ) and reads its reply.
    #[must_use]
    pub fn request(&self, request: &DiscoveryRequest) -> DiscoveryResponse {
        decode_response(&self.request_bytes(&request.to_bytes()))
    }

    /// Sends a request's body (REQ) and reads the body of its reply.
    ///
    /// # Panics
    /// When no message arrives within [`TIMEOUT`].
    #[must_use]
    pub fn request_bytes(&self, body: &[u8]) -> Vec<u8> {
        self.socket.send(body, 0).unwrap();
        self.receive()
    }

    /// Reads a message of one part (REQ).
    ///
    /// # Panics
    /// When no message arrives within [`TIMEOUT`], or it has more parts.
    #[must_use]
    pub fn receive(&self) -> Vec<u8> {
        let parts = self.receive_parts();
        <[Vec<u8>; 1]>::try_from(parts).expect("a message of one part")[0].clone()
    }

    /// Sends the parts of a message (DEALER).
    ///
    /// # Panics
    /// When they cannot be sent within [`TIMEOUT`].
    pub fn send_parts(&self, parts: &[&[u8]]) {
        self.socket.send_multipart(parts, 0).unwrap();
    }

    /// Reads the parts of a message.
    ///
    /// # Panics
    /// When no message arrives within [`TIMEOUT`].
    #[must_use]
    pub fn receive_parts(&self) -> Vec<Vec<u8>> {
        self.socket.recv_multipart(0).expect("a message arrives within the timeout")
    }

    /// Whether a message arrives within this time.
    ///
    /// # Panics
    /// When a libzmq call fails.
    #[must_use]
    pub fn receives_within(&self, milliseconds: i64) -> bool {
        self.socket.poll(zmq::POLLIN, milliseconds).unwrap() != 0
    }
}
