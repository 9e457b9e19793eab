//! What follows from the daemon's answers.

use std::time::{Duration, Instant};

use cortex_proto::ResponseExt;

use super::schedule::Due;
use super::topic::Registration;
use super::{
    AdvertisementId, AdvertisementManager, FIRST_PAUSE, LEASE, LEGACY_REFRESH, MAX_PAUSE,
    MAX_PAUSE_WHEN_TAKEN, PACE, REFRESH,
};
use crate::error::{Error, Result};
use crate::protocol::reply::Reply;

impl AdvertisementManager {
    /// The answer to REGISTER. True when the daemon has registered the topic.
    pub(super) fn registered(
        &mut self,
        number: u64,
        id: AdvertisementId,
        previous: Option<Registration>,
        reply: Result<Reply>,
        now: Instant,
    ) -> bool {
        let Some(topic) = self.topics.get_mut(&number) else { return false };
        let is_current =
            topic.advertisement.as_ref().is_some_and(|advertisement| advertisement.id == id);
        let ext = reply.as_ref().ok().and_then(Reply::ext);
        let revision = ext.and_then(|ext| ext.revision);
        let error = reply.and_then(|reply| reply.registered(topic.name.as_str())).err();
        match &error {
            None => {
                topic.retry_pause = FIRST_PAUSE;
                if let Some(registration) = &mut topic.registration {
                    registration.revision = revision;
                }
                if let Some(advertisement) =
                    topic.advertisement.as_mut().filter(|advertisement| advertisement.id == id)
                {
                    advertisement.was_registered = true;
                    advertisement.is_superseded = false;
                }
            }
            Some(Error::AlreadyRegistered { .. }) => topic.registration = None,
            // The daemon has changed nothing.
            Some(Error::Refused { .. }) => topic.registration = previous,
            Some(_) => {}
        }
        let is_done = error.is_none();
        match error {
            _ if !is_current => self.schedule_now(number),
            None => {
                self.schedule.set(number, Due::At(now + self.refresh()));
                let is_extended = self.daemon.is_extended == Some(true);
                if is_extended && !self.in_session() && self.daemon.sees_process.is_none() {
                    self.daemon.identity_check = Some(number);
                } else {
                    self.report_registered(number, id);
                }
            }
            Some(error) => {
                let is_taken = matches!(error, Error::AlreadyRegistered { .. });
                let longest = if is_taken { MAX_PAUSE_WHEN_TAKEN } else { MAX_PAUSE };
                self.report_error(number, error);
                self.schedule_after_pause(number, longest, now);
            }
        }
        is_done
    }

    /// The time between two checks of a topic.
    fn refresh(&self) -> Duration {
        if self.is_legacy() { LEGACY_REFRESH } else { REFRESH }
    }

    /// The answer to a LOOKUP of a topic that is registered, or that must be withdrawn.
    pub(super) fn checked(&mut self, number: u64, reply: Result<Reply>, now: Instant) {
        let Some(topic) = self.topics.get_mut(&number) else { return };
        let entry = reply.as_ref().ok().and_then(|reply| reply.ext()?.entry.clone());
        let revision = entry.as_ref().map(|entry| entry.revision);
        let pid = entry.as_ref().and_then(|entry| entry.pid);
        let mut other_node = None;
        let error = match reply.and_then(|reply| reply.found(topic.name.as_str())) {
            Ok(info) => {
                let is_own_process = pid.is_some() && pid == self.own_pid;
                topic
                    .registration
                    .take_if(|registration| !registration.is(&info, revision, is_own_process));
                match &mut topic.registration {
                    Some(registration) => {
                        registration.revision = revision.or(registration.revision);
                        if entry.is_some() {
                            self.daemon.sees_process = Some(pid.is_some());
                            self.own_pid = pid.or(self.own_pid);
                        }
                    }
                    None => other_node = Some(info.publisher_node),
                }
                None
            }
            Err(Error::NoSuchTopic { .. }) => {
                topic.registration = None;
                None
            }
            Err(error) => Some(error),
        };
        if topic.advertisement.is_none() || topic.must_withdraw() {
            topic.is_verified = error.is_none();
            self.go_on_withdrawing(number, error, now);
        } else {
            self.go_on_advertising(number, error, other_node, now);
        }
    }

    /// Withdraws a topic after a look at it, unless that or the last withdrawal failed.
    fn go_on_withdrawing(&mut self, number: u64, error: Option<Error>, now: Instant) {
        let Some(topic) = self.topics.get_mut(&number) else { return };
        match error.or(topic.withdraw_error.take()) {
            Some(error) if topic.registration.is_some() => {
                self.end_with(number, &error);
                self.report_error(number, error);
                self.schedule_after_pause(number, MAX_PAUSE, now);
            }
            _ => self.schedule_now(number),
        }
    }

    /// Goes on with an advertised topic after a look at it.
    fn go_on_advertising(
        &mut self,
        number: u64,
        error: Option<Error>,
        other_node: Option<String>,
        now: Instant,
    ) {
        let needs_session = self.in_session() && self.is_extended();
        let next_check = Due::At(now + self.refresh());
        let Some(topic) = self.topics.get_mut(&number) else { return };
        let Some(advertisement) = &mut topic.advertisement else { return };
        let id = advertisement.id;
        if let Some(error) = error {
            self.report_error(number, error);
            self.schedule_after_pause(number, MAX_PAUSE, now);
        } else if let Some(node) = other_node
            && advertisement.was_registered
        {
            advertisement.is_superseded = true;
            let error = Error::Superseded { topic: topic.name.clone().into(), node };
            self.report_error(number, error);
            self.schedule.set(number, next_check);
        } else if let Some(registration) = &topic.registration
            && advertisement.was_registered
            && (registration.in_session || !needs_session)
        {
            if needs_session {
                // The lease may have been running since the last connection.
                self.daemon.renew_at.get_or_insert(now);
            }
            self.schedule.set(number, next_check);
            self.report_registered(number, id);
        } else {
            // Another process has removed the topic, or the daemon has lost it, or it is registered
            // without the session that it needs, or the advertisement is a later one.
            self.register_again(number);
        }
    }

    /// Schedules a REGISTER without a look before it.
    fn register_again(&mut self, number: u64) {
        let topic = self.topics.get_mut(&number);
        if let Some(advertisement) = topic.and_then(|topic| topic.advertisement.as_mut()) {
            advertisement.may_register_again = true;
        }
        self.schedule_now(number);
    }

    /// The session has a full lease since `sent_at`, if the daemon has leases.
    pub(super) fn extend_lease(&mut self, ext: Option<&ResponseExt>, sent_at: Instant) {
        self.daemon.renew_at = ext.map(|ext| {
            let lease = ext.lease_ms.map_or(LEASE, Duration::from_millis).min(LEASE);
            sent_at + (lease / 4).max(PACE)
        });
    }

    pub(super) fn session_renewed(&mut self, reply: &Result<Reply>, sent_at: Instant) {
        let ext = reply.as_ref().ok().and_then(Reply::ext);
        self.extend_lease(ext, sent_at);
        if ext.and_then(|ext| ext.known) == Some(false) {
            // The daemon has lost the session. The first REGISTER of its topics creates it again.
            self.daemon.renew_at = None;
            let lost = self.topics.iter().filter(|(_, topic)| topic.is_registered());
            let lost: Vec<_> = lost.map(|(number, _)| *number).collect();
            for number in lost {
                self.register_again(number);
            }
        }
    }

    pub(super) fn topic_withdrawn(&mut self, number: u64, reply: Result<Reply>) {
        let Some(topic) = self.topics.get_mut(&number) else { return };
        match reply.and_then(|reply| reply.unregistered(topic.name.as_str())) {
            Ok(()) | Err(Error::NoSuchTopic { .. }) => topic.registration = None,
            Err(error) => topic.withdraw_error = Some(error),
        }
        topic.is_verified = false;
        self.schedule_now(number);
    }
}
