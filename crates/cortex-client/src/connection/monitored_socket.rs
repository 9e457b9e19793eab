//! A connection that tells when it comes and goes, for who waits for other things as well.

use std::time::Duration;

use cortex_proto::DiscoveryRequest;
use tracing::debug;
use zmq::SocketEvent;

use super::{ReqSocket, WakeSource, receive};
use crate::error::{Error, Result};
use crate::exchange::poll_millis;
use crate::reply::RawReply;

/// A connection for one request at a time. It comes back by itself, but a request that was under
/// way when it went away is lost, and then it takes no other.
pub(crate) struct MonitoredSocket {
    address: String,
    req_socket: ReqSocket,
    awaits_reply: bool,
}

/// What has happened to a connection.
#[derive(Debug)]
pub(crate) enum ConnectionEvent {
    /// The daemon has greeted: somebody is there who takes requests.
    Connected,
    /// It is gone.
    Disconnected,
    /// The answer to the request is there.
    Reply(RawReply),
}

impl MonitoredSocket {
    /// Connects in the background.
    pub(crate) fn open(address: &str) -> Result<Self> {
        // Before it connects, so that nothing is missed.
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

    /// Waits until something has happened here, or somebody rings at the door, at most for so
    /// long. It may end before.
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

    /// What has happened, one thing after the other.
    pub(crate) fn next_event(&mut self) -> Result<Option<ConnectionEvent>> {
        // A reply that came before the connection was lost is a reply.
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
            // What came is still there.
            Err(zmq::Error::EAGAIN | zmq::Error::EINTR) => Ok(None),
            Err(source) => Err(self.failed(source)),
        }
    }

    fn failed(&self, source: zmq::Error) -> Error {
        debug!(%source, "the socket failed");
        Error::Transport { address: self.address.clone(), source }
    }
}
