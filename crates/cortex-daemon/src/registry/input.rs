//! What the registry is told.

use cortex_proto::DiscoveryRequest;

use crate::peer::ReplyTo;

/// Something that happened outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A peer asks for something.
    Request {
        /// Whom to answer.
        from: ReplyTo,
        /// What it asks for.
        request: DiscoveryRequest,
    },
}
