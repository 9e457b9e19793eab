//! SHUTDOWN.

use crate::peer::PeerIdentity;
use crate::registry::answer::{Answer, ErrorCause};
use crate::registry::directory::access::{Access, describe_user};

pub(super) fn shutdown(access: Access, peer: &PeerIdentity) -> Answer {
    if access.may_shut_down(peer) {
        return Answer::ShuttingDown;
    }
    let message = format!(
        "The daemon is not shut down: only root and the daemon's own user may do that, and you \
         are {}",
        describe_user(peer.uid)
    );
    Answer::Error { message, cause: ErrorCause::Access }
}
