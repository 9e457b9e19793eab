//! What the registry wants done.

use std::sync::Arc;

use cortex_proto::{DiscoveryStatus, TopicInfo, TopicName};

use crate::peer::ReplyTo;

/// Something for the edge to do. Effects are performed in the order in which they come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The set of topics has changed: tell whom it concerns.
    Changed(Change),
    /// Send a reply.
    Reply {
        /// Whom to answer.
        to: ReplyTo,
        /// How the request ended.
        status: DiscoveryStatus,
        /// The reply's bytes; one allocation may serve many peers.
        body: Arc<[u8]>,
    },
    /// End the daemon, after all that came before.
    Stop,
}

/// A change in the set of topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A topic is there that was not.
    Registered(TopicInfo),
    /// A topic's publisher registered it again; what is known of it now is this.
    Updated(TopicInfo),
    /// A topic is gone.
    Unregistered(TopicName),
}
