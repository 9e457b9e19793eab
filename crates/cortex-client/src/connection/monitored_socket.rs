//! A connection that reports its events, for a thread that waits for other events as well.

use std::time::Duration;

use cortex_proto::DiscoveryRequest;
use tracing::debug;
use zmq::SocketEvent;

use super::{ReqSocket, WakeSource, receive};
use crate::error::{Error, Result};
use crate::protocol::reply::RawReply;
use crate::protocol::retry::poll_millis;

/// A connection for one request at a time. libzmq reconnects it, but an outstanding request is lost
/// with the old connection, and then the socket accepts no other request.
pub(crate) struct MonitoredSocket {
    address: String,
    req_socket: ReqSocket,
    awaits_reply: bool,
}

/// An event of a connection.
#[derive(Debug)]
pub(crate) enum ConnectionEvent {
    /// The daemon has completed the handshake and accepts requests.
    Connected,
    /// The connection was lost.
    Disconnected,
    /// The answer to the request has arrived.
    Reply(RawReply),
}

impl MonitoredSocket {
    /// Connects in the background.
    pub(crate) fn open(address: &str) -> Result<Self> {
        // Monitor before connecting, so that no event is missed.
        let events = [SocketEvent::HANDSHAKE_SUCCEEDED, SocketEvent::DISCONNECTED];
        let req_socket = ReqSocket::prepare(address, &events)?;
        req_socket.connect(address)?;
        Ok(Self { address: address.to_owned(), req_socket, awaits_reply: false })
    }

    /// Sends a request, without waiting.
    pub(crate) fn send(&mut self, request: &DiscoveryRequest) -> Result<()> {
        debug!(address = self.address, command = %request.command, "request");
        loop {
            match self.req_socket.socket.send(request.to_bytes(), zmq::DONTWAIT) {
                Err(zmq::Error::EINTR) => {}
                Err(source) => return Err(self.failed(source)),
                Ok(()) => {
                    self.awaits_reply = true;
                    return Ok(());
                }
            }
        }
    }

    /// Waits for an event of the connection or for the waker, at most `within`. It may return
    /// early.
    pub(crate) fn wait(&self, wake_source: &WakeSource, within: Duration) -> Result<()> {
        let mut items = vec![wake_source.poll_item()];
        items.extend(
            self.req_socket.monitor.as_ref().map(|monitor| monitor.as_poll_item(zmq::POLLIN)),
        );
        if self.awaits_reply {
            items.push(self.req_socket.socket.as_poll_item(zmq::POLLIN));
        }
        let polled = zmq::poll(&mut items, poll_millis(within)).and_then(|_| wake_source.clear());
        match polled {
            Ok(()) | Err(zmq::Error::EINTR) => Ok(()),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// The next event that has already happened.
    pub(crate) fn next_event(&mut self) -> Result<Option<ConnectionEvent>> {
        // A reply that arrived before the connection was lost counts.
        if self.awaits_reply
            && let Some(reply) = self.take(&self.req_socket.socket)?
        {
            self.awaits_reply = false;
            debug!(bytes = reply.body.len(), "reply");
            return Ok(Some(ConnectionEvent::Reply(reply)));
        }
        let Some(monitor) = &self.req_socket.monitor else { return Ok(None) };
        let is_connected = SocketEvent::HANDSHAKE_SUCCEEDED.to_raw().to_ne_bytes();
        let event = self.take(monitor)?;
        Ok(event.map(|event| {
            if event.body.starts_with(&is_connected) {
                ConnectionEvent::Connected
            } else {
                ConnectionEvent::Disconnected
            }
        }))
    }

    fn take(&self, socket: &zmq::Socket) -> Result<Option<RawReply>> {
        match receive(socket) {
            Ok(message) => Ok(Some(message)),
            // After a signal the message is still in the socket.
            Err(zmq::Error::EAGAIN | zmq::Error::EINTR) => Ok(None),
            Err(source) => Err(self.failed(source)),
        }
    }

    fn failed(&self, source: zmq::Error) -> Error {
        debug!(%source, "the socket failed");
        Error::Transport { address: self.address.clone(), source }
    }
}
