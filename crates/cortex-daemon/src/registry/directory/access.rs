//! Who may do what.

use crate::peer::PeerIdentity;
use crate::registry::directory::topics::Entry;

/// Who is trusted beyond their own topics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The daemon's own user.
    pub daemon_uid: u32,
    /// Whether peers whose user is unknown (over TCP) may end the daemon.
    pub allow_remote_shutdown: bool,
}

impl Access {
    fn is_trusted(self, peer: &PeerIdentity) -> bool {
        peer.uid.is_some_and(|uid| uid == 0 || uid == self.daemon_uid)
    }

    /// Whoever registered a topic may change it, and who is trusted. The topics of unknown peers
    /// are unknown peers' to change.
    pub(in crate::registry) fn may_change(self, peer: &PeerIdentity, entry: &Entry) -> bool {
        peer.uid == entry.owner.uid || self.is_trusted(peer)
    }

    pub(in crate::registry) fn may_stop(self, peer: &PeerIdentity) -> bool {
        self.is_trusted(peer) || (peer.uid.is_none() && self.allow_remote_shutdown)
    }
}

/// A user, in a sentence.
pub(in crate::registry) fn user(uid: Option<u32>) -> String {
    uid.map_or_else(|| "an unknown user".to_owned(), |uid| format!("user {uid}"))
}
