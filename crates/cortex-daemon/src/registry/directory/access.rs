//! Which user may change or stop what.

use crate::peer::PeerIdentity;

/// The users that are trusted beyond their own topics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The daemon's own user.
    pub daemon_uid: u32,
    /// Whether peers whose user is unknown (over TCP) may shut the daemon down.
    pub allow_remote_shutdown: bool,
}

impl Access {
    fn is_trusted(self, peer: &PeerIdentity) -> bool {
        peer.uid.is_some_and(|uid| uid == 0 || uid == self.daemon_uid)
    }

    /// Whether a peer may change the topic of an owner: the owner's user and trusted users may.
    /// Unknown peers may change the topics of unknown peers.
    pub(in crate::registry) fn may_change(self, peer: &PeerIdentity, owner: &PeerIdentity) -> bool {
        peer.uid == owner.uid || self.is_trusted(peer)
    }

    pub(in crate::registry) fn may_shut_down(self, peer: &PeerIdentity) -> bool {
        self.is_trusted(peer) || (peer.uid.is_none() && self.allow_remote_shutdown)
    }
}

/// A user, in a sentence.
pub(in crate::registry) fn describe_user(uid: Option<u32>) -> String {
    uid.map_or_else(|| "an unknown user".to_owned(), |uid| format!("user {uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCESS: Access = Access { daemon_uid: 500, allow_remote_shutdown: false };

    fn user(uid: u32) -> PeerIdentity {
        PeerIdentity { uid: Some(uid), process: None, is_local: true }
    }

    const UNKNOWN: PeerIdentity = PeerIdentity { uid: None, process: None, is_local: false };

    #[test]
    fn a_topic_may_be_changed_by_its_user_root_and_the_daemons_user() {
        for (peer, may) in [(7, true), (0, true), (500, true), (8, false)] {
            assert_eq!(ACCESS.may_change(&user(peer), &user(7)), may, "{peer}");
        }
        assert!(!ACCESS.may_change(&UNKNOWN, &user(7)));
        assert!(ACCESS.may_change(&UNKNOWN, &UNKNOWN));
        assert!(!ACCESS.may_change(&user(7), &UNKNOWN));
    }

    #[test]
    fn unknown_peers_may_shut_down_only_where_that_is_allowed() {
        assert!(ACCESS.may_shut_down(&user(0)) && ACCESS.may_shut_down(&user(500)));
        assert!(!ACCESS.may_shut_down(&user(7)) && !ACCESS.may_shut_down(&UNKNOWN));
        let open = Access { allow_remote_shutdown: true, ..ACCESS };
        assert!(open.may_shut_down(&UNKNOWN) && !open.may_shut_down(&user(7)));
    }
}
