//! The advertisements of a client: their manager, and what their users are told.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cortex_proto::{TopicInfo, TopicName};
use tracing::{debug, warn};

use super::Settings;
use crate::advertisement::{AdvertisementStatus, Callback, Notice, SharedStatus};
use crate::error::{ConnectError, Error};
use crate::protocol::advertise::{
    AdvertisementEvent, AdvertisementId, AdvertisementManager, AdvertisementSettings,
};
use crate::protocol::{Action, Outcome};

/// The shortest time for an answer: our daemon may probe an endpoint for up to a second before it
/// refuses a topic.
const MIN_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest time for an answer: the manager repeats its requests anyway.
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) struct Advertisements {
    manager: AdvertisementManager,
    topics: HashMap<AdvertisementId, AdvertisedTopic>,
}

/// An advertised topic and its user's callback.
struct AdvertisedTopic {
    name: TopicName,
    status: Arc<SharedStatus>,
    on_notice: Option<Callback>,
}

impl Advertisements {
    pub(super) fn new(settings: &Settings) -> Self {
        let random = RandomState::new().hash_one(process::id());
        let manager = AdvertisementManager::new(AdvertisementSettings {
            address: settings.address.as_str().to_owned(),
            timeout: settings.policy.timeout.clamp(MIN_TIMEOUT, MAX_TIMEOUT),
            session_id: format!("{}-{random:016x}", process::id()),
        });
        Self { manager, topics: HashMap::new() }
    }

    pub(super) fn add(
        &mut self,
        id: AdvertisementId,
        info: TopicInfo,
        status: Arc<SharedStatus>,
        on_notice: Option<Callback>,
        now: Instant,
    ) {
        let name = info.name.clone();
        self.topics.insert(id, AdvertisedTopic { name, status, on_notice });
        self.manager.add(id, info, now);
    }

    pub(super) fn remove(&mut self, id: AdvertisementId) {
        self.manager.remove(id);
    }

    pub(super) fn remove_all(&mut self) {
        self.manager.remove_all();
    }

    pub(super) fn is_idle(&self) -> bool {
        self.manager.is_idle()
    }

    pub(super) fn is_legacy(&self) -> bool {
        self.manager.is_legacy()
    }

    pub(super) fn connected(&mut self) {
        self.manager.connected();
    }

    pub(super) fn not_connected(&mut self, cause: Option<ConnectError>) {
        self.manager.not_connected(cause);
    }

    pub(super) fn disconnected(&mut self, now: Instant) {
        self.manager.disconnected(now);
    }

    pub(super) fn failed(&mut self, error: &Error) {
        self.manager.failed(error);
    }

    pub(super) fn outcome(&mut self, outcome: Outcome, now: Instant) {
        self.manager.outcome(outcome, now);
    }

    pub(super) fn next_action(&mut self, now: Instant) -> Action {
        let action = self.manager.next_action(now);
        self.deliver_events();
        action
    }

    /// Passes the manager's events to the users. No lock is held while a callback runs, so the
    /// callback may end advertisements and start calls.
    pub(super) fn deliver_events(&mut self) {
        for (id, event) in self.manager.take_events() {
            let Some(topic) = self.topics.get_mut(&id) else { continue };
            topic.apply(&event);
            let is_gone = matches!(event, AdvertisementEvent::Ended(_));
            if let Some(notice) = to_notice(event)
                && let Some(callback) = &mut topic.on_notice
                && catch_unwind(AssertUnwindSafe(|| callback(notice))).is_err()
            {
                warn!(topic = %topic.name, "the callback of an advertisement panicked");
                drop_callback(topic.on_notice.take());
            }
            if is_gone && let Some(topic) = self.topics.remove(&id) {
                drop_callback(topic.on_notice);
            }
        }
    }
}

impl Drop for Advertisements {
    fn drop(&mut self) {
        // The client is closed, or the driver has panicked: end all waits for it.
        for topic in std::mem::take(&mut self.topics).into_values() {
            topic.status.change(AdvertisementStatus::close);
            drop_callback(topic.on_notice);
        }
    }
}

impl AdvertisedTopic {
    fn apply(&self, event: &AdvertisementEvent) {
        match event {
            AdvertisementEvent::Registered { hold } => {
                debug!(topic = %self.name, ?hold, "registered");
            }
            AdvertisementEvent::Trouble(error) => {
                warn!(topic = %self.name, %error, "not registered");
            }
            AdvertisementEvent::Unconfirmed
            | AdvertisementEvent::Replaced
            | AdvertisementEvent::Ended(_) => {}
        }
        self.status.change(|status| status.apply(event));
    }
}

/// The notice for the user, if this event has one.
fn to_notice(event: AdvertisementEvent) -> Option<Notice> {
    match event {
        AdvertisementEvent::Registered { hold } => Some(Notice::Registered { hold }),
        AdvertisementEvent::Trouble(error) => Some(Notice::Trouble(error)),
        AdvertisementEvent::Replaced => Some(Notice::Replaced),
        AdvertisementEvent::Unconfirmed | AdvertisementEvent::Ended(_) => None,
    }
}

/// Drops a callback. Its captured values are the user's too, so dropping them may panic.
fn drop_callback(callback: Option<Callback>) {
    if catch_unwind(AssertUnwindSafe(|| drop(callback))).is_err() {
        warn!("the callback of an advertisement panicked when it was dropped");
    }
}
