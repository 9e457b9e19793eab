//! The manager's knowledge about one topic.

use std::time::Duration;

use cortex_proto::{Hold, TopicInfo, TopicName};

use super::{AdvertisementId, FIRST_PAUSE};
use crate::error::Error;

/// A topic with an advertisement, or one that the daemon may still have from this client.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: TopicName,
    pub(super) advertisement: Option<CurrentAdvertisement>,
    /// The registration that the daemon may have from this client.
    pub(super) registration: Option<Registration>,
    /// Whether a LOOKUP on this connection has found the registration.
    pub(super) is_verified: bool,
    /// Why the daemon did not withdraw the topic.
    pub(super) withdraw_error: Option<Error>,
    /// The ended advertisements that wait for the withdrawal.
    pub(super) ending: Vec<AdvertisementId>,
    pub(super) retry_pause: Duration,
}

#[derive(Debug)]
pub(super) struct CurrentAdvertisement {
    pub(super) id: AdvertisementId,
    pub(super) info: TopicInfo,
    pub(super) state: RegistrationState,
    /// The daemon has registered the topic once. From then on the client looks before it registers
    /// the topic again: another process may have taken it over.
    pub(super) was_registered: bool,
    /// The last look has shown that the client may register the topic.
    pub(super) may_register_again: bool,
    /// Another process has taken over the topic.
    pub(super) is_superseded: bool,
    /// The last reported error since the topic was registered.
    pub(super) reported_error: Option<Error>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RegistrationState {
    /// Not registered, or unknown.
    Unconfirmed,
    Registered {
        hold: Option<Hold>,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Registration {
    pub(super) info: TopicInfo,
    /// The revision of this client's REGISTER, when the daemon has reported it.
    pub(super) revision: Option<u64>,
    pub(super) in_session: bool,
}

impl CurrentAdvertisement {
    pub(super) fn new(id: AdvertisementId, info: TopicInfo) -> Self {
        Self {
            id,
            info,
            state: RegistrationState::Unconfirmed,
            was_registered: false,
            may_register_again: false,
            is_superseded: false,
            reported_error: None,
        }
    }

    /// Whether the client looks before it registers the topic.
    pub(super) fn must_look(&self) -> bool {
        self.was_registered && !self.may_register_again
    }
}

impl Topic {
    /// A topic without an advertisement and without a registration.
    pub(super) fn new(name: TopicName) -> Self {
        Self {
            name,
            advertisement: None,
            registration: None,
            is_verified: false,
            withdraw_error: None,
            ending: Vec::new(),
            retry_pause: FIRST_PAUSE,
        }
    }

    pub(super) fn is_registered(&self) -> bool {
        self.advertisement
            .as_ref()
            .is_some_and(|advertisement| advertisement.state != RegistrationState::Unconfirmed)
    }

    /// Whether the daemon may have a registration that no advertisement wants any more.
    pub(super) fn must_withdraw(&self) -> bool {
        let node = self.advertisement.as_ref().map(|current| &current.info.publisher_node);
        self.registration
            .as_ref()
            .is_some_and(|registration| node != Some(&registration.info.publisher_node))
    }
}

impl Registration {
    /// Whether the daemon's topic is this registration, as far as its answer shows. A legacy daemon
    /// shows no revision. `is_own_process`: the daemon names this process as the owner, so the
    /// revision may be one that another history has given to the same registration.
    pub(super) fn is(&self, info: &TopicInfo, revision: Option<u64>, is_own_process: bool) -> bool {
        let is_other = |known| revision.is_some_and(|revision| revision != known);
        self.info == *info && (is_own_process || !self.revision.is_some_and(is_other))
    }
}
