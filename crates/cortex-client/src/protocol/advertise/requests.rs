//! Which request the manager sends next.

use std::time::Instant;

use cortex_proto::{DiscoveryRequest, Hold, RequestExt, Session};

use super::schedule::Due;
use super::topic::Registration;
use super::{AdvertisementManager, LEASE, PACE, RequestKind, millis};

impl AdvertisementManager {
    /// The next request that is due.
    pub(super) fn next_request_kind(&mut self, now: Instant) -> Option<RequestKind> {
        if let Some(number) = self.daemon.identity_check.take() {
            return Some(RequestKind::Check(number));
        }
        if self.daemon.renew_at.is_some_and(|at| at <= now) {
            return Some(RequestKind::Renew);
        }
        let (due, number) = self.schedule.first()?;
        if let Due::At(at) = due {
            if now < self.paced_until.map_or(at, |paced| paced.max(at)) {
                return None;
            }
            self.paced_until = Some(now + PACE);
        }
        self.schedule.remove(number);
        let topic = self.topics.get(&number)?;
        if let Some(advertisement) = &topic.advertisement
            && !topic.must_withdraw()
        {
            let id = advertisement.id;
            if advertisement.must_look() {
                return Some(RequestKind::Check(number));
            }
            let (in_session, previous) = (self.in_session(), topic.registration.clone());
            return Some(RequestKind::Register { topic: number, id, in_session, previous });
        }
        // Only a daemon of level 1 checks the conditions of an UNREGISTER. After a refusal the
        // topic may belong to another process by now.
        let has_revision =
            topic.registration.as_ref().is_some_and(|registration| registration.revision.is_some());
        let checks_conditions =
            self.is_extended() && has_revision && topic.withdraw_error.is_none();
        let may_withdraw = topic.is_verified || checks_conditions;
        Some(if may_withdraw { RequestKind::Withdraw(number) } else { RequestKind::Check(number) })
    }

    /// When the next scheduled request is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let due = self.schedule.first().and_then(|(due, _)| match due {
            Due::At(at) => Some(self.paced_until.map_or(at, |paced| paced.max(at))),
            Due::Withdraw | Due::Register => None,
        });
        [due, self.daemon.renew_at].into_iter().flatten().min()
    }

    pub(super) fn request(&mut self, kind: &RequestKind) -> DiscoveryRequest {
        let name = |number| {
            self.topics.get(&number).map_or_else(String::new, |topic| topic.name.clone().into())
        };
        match *kind {
            RequestKind::Check(number) => {
                DiscoveryRequest::lookup(name(number)).with_ext(RequestExt::default())
            }
            RequestKind::Renew => DiscoveryRequest::renew(self.session()),
            RequestKind::Register { topic: number, in_session, .. } => {
                let ext = RequestExt {
                    hold: in_session.then_some(Hold::Session),
                    session: in_session.then(|| self.session()),
                    ..RequestExt::default()
                };
                let topic = self.topics.get_mut(&number);
                let info = topic.and_then(|topic| {
                    let advertisement = topic.advertisement.as_mut()?;
                    advertisement.may_register_again = false;
                    let info = advertisement.info.clone();
                    // From now on the daemon may have the topic, at an unknown revision.
                    topic.registration =
                        Some(Registration { info: info.clone(), revision: None, in_session });
                    topic.is_verified = false;
                    Some(info)
                });
                // A topic that is due to be registered always has an advertisement.
                info.map_or_else(DiscoveryRequest::ping, DiscoveryRequest::register).with_ext(ext)
            }
            RequestKind::Withdraw(number) => {
                let registration =
                    self.topics.get(&number).and_then(|topic| topic.registration.clone());
                DiscoveryRequest::unregister(name(number)).with_ext(RequestExt {
                    revision: registration.as_ref().and_then(|registration| registration.revision),
                    publisher_node: registration
                        .map(|registration| registration.info.publisher_node),
                    ..RequestExt::default()
                })
            }
        }
    }

    fn session(&self) -> Session {
        Session { id: self.settings.session_id.clone(), lease_ms: Some(millis(LEASE)) }
    }
}
