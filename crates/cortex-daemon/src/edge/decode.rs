//! From a message on a connection to a peer's request.

use cortex_proto::{DiscoveryCommand, DiscoveryRequest};

use super::credentials::Credentials;
use super::processes::Processes;
use crate::peer::{ConnectionId, PeerIdentity, ReplyTo};
use crate::registry::{PeerRequest, UnreadableRequest};
use crate::zmtp::{Body, MAX_BODY, Request};

/// The connection that a message came on.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) connection: ConnectionId,
    pub(super) credentials: Credentials,
    /// Whether the peer is a REQ socket.
    pub(super) is_req: bool,
}

/// Decodes a message.
pub(super) fn decode(source: Source, message: Request, processes: &Processes) -> PeerRequest {
    let Source { connection, credentials, is_req } = source;
    let request = decode_body(connection, message.body);
    let peer = identify(credentials, &request, processes);
    PeerRequest {
        reply_to: ReplyTo { connection, envelope: message.envelope },
        peer,
        is_req,
        request,
    }
}

fn decode_body(
    connection: ConnectionId,
    body: Body,
) -> Result<Box<DiscoveryRequest>, UnreadableRequest> {
    let connection = connection.0;
    let (problem, asks_for_ext) = match body {
        Body::Whole(bytes) => match DiscoveryRequest::from_bytes(&bytes) {
            Ok(request) => {
                let (command, topic) = (request.command, &request.topic_name);
                tracing::debug!(connection, %command, topic, "request");
                return Ok(Box::new(request));
            }
            Err(error) => (error.to_string(), DiscoveryRequest::asks_for_ext(&bytes)),
        },
        // The body is gone, and with it whether the request asks for an extension. A reply with an
        // extension does no harm.
        Body::TooLong { length } => {
            (format!("it has {length} bytes, at most {MAX_BODY} are allowed"), true)
        }
        Body::SeveralParts { count } => {
            (format!("its body has {count} parts, and the protocol has one"), true)
        }
    };
    tracing::debug!(connection, problem, "unreadable request");
    Err(UnreadableRequest { problem, asks_for_ext })
}

/// The peer's process matters only where it registers a topic, or may be refused.
fn identify(
    credentials: Credentials,
    request: &Result<Box<DiscoveryRequest>, UnreadableRequest>,
    processes: &Processes,
) -> PeerIdentity {
    use DiscoveryCommand::{RegisterTopic, Shutdown, UnregisterTopic};
    let matters = request.as_ref().is_ok_and(|request| {
        [RegisterTopic, UnregisterTopic, Shutdown].map(Into::into).contains(&request.command)
    });
    let pid = credentials.pid.filter(|_| matters);
    let process = pid.and_then(|pid| processes.identify(pid));
    let is_local = credentials.is_loopback || pid.is_some_and(|pid| processes.shares_network(pid));
    PeerIdentity { uid: credentials.uid, process, is_local }
}
