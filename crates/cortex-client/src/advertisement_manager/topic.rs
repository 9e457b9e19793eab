//! What a keeper knows of a topic.

use std::time::Duration;

use cortex_proto::{Hold, TopicInfo, TopicName};

use super::{AdvertisementId, FIRST_PAUSE};
use crate::error::Error;

/// A topic that is to be registered, or may still be at the daemon.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: TopicName,
    pub(super) advertisement: Option<CurrentAdvertisement>,
    /// What the daemon may have from this keeper.
    pub(super) registration: Option<Registration>,
    /// Whether this connection's daemon has been found to have it.
    pub(super) is_verified: bool,
    /// Why it could not be withdrawn.
    pub(super) withdraw_error: Option<Error>,
    /// The advertisements whose end waits for the withdrawal.
    pub(super) ending: Vec<AdvertisementId>,
    pub(super) retry_pause: Duration,
}

#[derive(Debug)]
pub(super) struct CurrentAdvertisement {
    pub(super) id: AdvertisementId,
    pub(super) info: TopicInfo,
    pub(super) state: RegistrationState,
    /// The trouble that was told since it was last registered.
    pub(super) reported_error: Option<Error>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RegistrationState {
    /// Not registered, or nobody knows.
    Unconfirmed,
    Registered {
        hold: Option<Hold>,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Registration {
    pub(super) node: String,
    /// The change at the daemon that is known to be this REGISTER's.
    pub(super) revision: Option<u64>,
}

impl Topic {
    /// One that nobody wants and no daemon has.
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

    /// Whether the daemon may have it in a form in which nobody wants it any more.
    pub(super) fn must_withdraw(&self) -> bool {
        let node = self.advertisement.as_ref().map(|current| &current.info.publisher_node);
        self.registration.as_ref().is_some_and(|registration| node != Some(&registration.node))
    }
}

impl Registration {
    /// Whether this is what a daemon has, as far as it tells.
    pub(super) fn is(&self, info: &TopicInfo, revision: Option<u64>) -> bool {
        let is_other = |known| revision.is_some_and(|revision| revision != known);
        self.node == info.publisher_node && !self.revision.is_some_and(is_other)
    }
}
