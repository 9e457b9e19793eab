//! Peers that speak through libzmq.

use cortex_proto::{DiscoveryRequest, DiscoveryResponse};
use zmq::{Context, DEALER, REQ, Socket, SocketType};

use crate::deadline::TIMEOUT;
use crate::messages::decode_response;

/// A libzmq socket that is connected to a daemon.
pub struct ZmqPeer {
    socket: Socket,
    /// Ended after the socket.
    _context: Context,
}

impl ZmqPeer {
    /// A REQ socket in a context of its own.
    #[must_use]
    pub fn req(address: &str) -> Self {
        Self::new(address, REQ, |_| Ok(()))
    }

    /// A DEALER socket in a context of its own.
    #[must_use]
    pub fn dealer(address: &str) -> Self {
        Self::new(address, DEALER, |_| Ok(()))
    }

    /// A socket with options set before it connects.
    #[must_use]
    pub fn new(
        address: &str,
        kind: SocketType,
        configure: impl FnOnce(&Socket) -> zmq::Result<()>,
    ) -> Self {
        Self::in_context(&Context::new(), address, kind, configure)
    }

    /// A socket of a context that others use, too.
    ///
    /// # Panics
    /// When libzmq refuses.
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

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Sends a request (REQ) and reads its reply.
    #[must_use]
    pub fn request(&self, request: &DiscoveryRequest) -> DiscoveryResponse {
        decode_response(&self.request_bytes(&request.to_bytes()))
    }

    /// Sends a request's body (REQ) and reads its reply's.
    ///
    /// # Panics
    /// When there is none within [`TIMEOUT`].
    #[must_use]
    pub fn request_bytes(&self, body: &[u8]) -> Vec<u8> {
        self.socket.send(body, 0).unwrap();
        self.receive()
    }

    /// Reads a message of one part (REQ).
    ///
    /// # Panics
    /// When there is none within [`TIMEOUT`], or it has more parts.
    #[must_use]
    pub fn receive(&self) -> Vec<u8> {
        let parts = self.receive_parts();
        <[Vec<u8>; 1]>::try_from(parts).expect("a message of one part")[0].clone()
    }

    /// Sends a message's parts (DEALER).
    ///
    /// # Panics
    /// When they cannot be sent within [`TIMEOUT`].
    pub fn send_parts(&self, parts: &[&[u8]]) {
        self.socket.send_multipart(parts, 0).unwrap();
    }

    /// Reads a message's parts.
    ///
    /// # Panics
    /// When there is none within [`TIMEOUT`].
    #[must_use]
    pub fn receive_parts(&self) -> Vec<Vec<u8>> {
        self.socket.recv_multipart(0).expect("a message comes in time")
    }

    /// Whether a message comes within so many milliseconds.
    ///
    /// # Panics
    /// When libzmq cannot tell.
    #[must_use]
    pub fn receives_within(&self, milliseconds: i64) -> bool {
        self.socket.poll(zmq::POLLIN, milliseconds).unwrap() != 0
    }
}
