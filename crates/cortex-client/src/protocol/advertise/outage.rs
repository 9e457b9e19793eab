//! A time without answers: what the manager forgets, and what it reports.

use std::mem;
use std::time::Instant;

use super::schedule::Due;
use super::topic::RegistrationState;
use super::{AdvertisementEvent, AdvertisementManager, DaemonFeatures, FIRST_PAUSE, REFRESH};
use crate::error::Error;

/// A time without answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outage {
    pub(super) since: Instant,
    pub(super) is_reported: bool,
    /// A daemon has accepted a connection and not answered. So a new connection is no answer yet.
    pub(super) has_failed_request: bool,
}

impl Outage {
    pub(super) fn begin(since: Instant) -> Self {
        Self { since, is_reported: false, has_failed_request: false }
    }
}

impl AdvertisementManager {
    /// The client could not make or use the connection.
    pub(crate) fn failed(&mut self, error: &Error) {
        for number in self.numbers() {
            self.report_error(number, error.clone());
        }
    }

    /// Forgets what belongs to the connection: it was lost, or an answer is missing.
    pub(super) fn forget_daemon(&mut self, now: Instant) {
        let in_flight = self.in_flight.take();
        let since = in_flight.as_ref().map_or(now, |in_flight| in_flight.at);
        // Without an answer in between it is the same outage.
        let outage = self.outage.get_or_insert(Outage::begin(since));
        outage.has_failed_request |= in_flight.is_some();
        self.daemon = DaemonFeatures::default();
        let no_answer = self.settings.no_answer(self.connect_error.clone());
        for number in self.numbers() {
            let mut is_superseded = false;
            if let Some(topic) = self.topics.get_mut(&number) {
                topic.is_verified = false;
                topic.withdraw_error = None;
                topic.retry_pause = FIRST_PAUSE;
                if let Some(advertisement) = &mut topic.advertisement {
                    is_superseded = advertisement.is_superseded;
                    if mem::replace(&mut advertisement.state, RegistrationState::Unconfirmed)
                        != RegistrationState::Unconfirmed
                    {
                        self.events.push_back((advertisement.id, AdvertisementEvent::Unconfirmed));
                    }
                }
            }
            self.end_with(number, &no_answer);
            if is_superseded {
                // A daemon that has lost its topics gets this one from the later process.
                self.schedule.set(number, Due::At(now + REFRESH));
            } else {
                self.schedule_now(number);
            }
        }
    }

    /// Reports to the ended advertisements of a topic that it cannot be withdrawn at present.
    pub(super) fn end_with(&mut self, number: u64, error: &Error) {
        if let Some(topic) = self.topics.get_mut(&number) {
            let ended = |id| (id, AdvertisementEvent::Ended(Err(error.clone())));
            self.events.extend(topic.ending.drain(..).map(ended));
        }
    }

    /// Reports an outage to all advertisements when it has lasted for the timeout. Before that it
    /// returns the time of the report.
    pub(super) fn report_outage(&mut self, now: Instant) -> Option<Instant> {
        if self.topics.is_empty() {
            return None;
        }
        let outage = self.outage.as_mut().filter(|outage| !outage.is_reported)?;
        let at = outage.since + self.settings.timeout;
        if now < at {
            return Some(at);
        }
        outage.is_reported = true;
        let error = self.settings.no_answer(self.connect_error.clone());
        self.failed(&error);
        None
    }
}
