//! Decides which topics to register, renew or withdraw, and when.
//!
//! This module is pure, as is [`exchange`](crate::protocol::retry): the caller carries out each
//! [`AdvertisementManager::next_action`], reports the result, and passes on the events of
//! [`AdvertisementManager::take_events`]. It has one connection, with one request at a time.
//!
//! All knowledge about the daemon belongs to one connection. On a new connection the manager
//! registers all topics again: an unchanged REGISTER costs the daemon nothing, and another or an
//! empty daemon has all topics at once.

mod connection_state;
mod schedule;
mod topic;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem;
use std::time::{Duration, Instant};

use cortex_proto::{
    DiscoveryRequest, Hold, RequestExt, ResponseExt, Session, TopicInfo, TopicName,
};

use self::connection_state::{ConnectionAction, ConnectionState};
use self::schedule::{Due, Schedule};
use self::topic::{CurrentAdvertisement, Registration, RegistrationState, Topic};
use crate::error::{Error, Result};
use crate::protocol::reply::Reply;

/// The time between two REGISTERs of a topic, so that a topic comes back after another process has
/// removed it.
const REFRESH: Duration = Duration::from_secs(5);
/// The shortest time between two such REGISTERs of any topics.
const PACE: Duration = Duration::from_millis(20);
/// The first pause after a refused request; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause while another node owns the topic.
const MAX_PAUSE_WHEN_TAKEN: Duration = REFRESH;
/// The longest pause after other errors.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// The lease of the session: how long it outlives its process.
pub(crate) const LEASE: Duration = Duration::from_secs(10);

/// The number of an advertisement, unique per manager.
pub(crate) type AdvertisementId = u64;

/// The constant settings of a manager.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The daemon's address.
    pub(crate) address: String,
    /// How long a request waits for its answer.
    pub(crate) timeout: Duration,
    /// The id of the session, for a daemon that cannot see this process.
    pub(crate) session_id: String,
}

/// What the caller does next. Then it calls [`AdvertisementManager::next_action`] again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ManagerAction {
    /// Replace the connection. After the handshake, call [`AdvertisementManager::connected`].
    Connect,
    /// Send this, and pass the answer to [`AdvertisementManager::answered`].
    Send(Box<DiscoveryRequest>),
    /// Wait for an event, at most this long; `None` is for ever.
    Wait(Option<Duration>),
}

/// A change of the state of an advertisement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AdvertisementEvent {
    /// The daemon has registered the topic.
    Registered { hold: Option<Hold> },
    /// The connection was lost, so the topic may not be registered any more.
    Unconfirmed,
    /// The topic is not registered, and the manager retries with pauses.
    Trouble(Error),
    /// A later advertisement has taken over the topic.
    Replaced,
    /// The topic is withdrawn, or cannot be withdrawn at present. This is the last event.
    Ended(Result<()>),
}

/// Keeps the topics of all advertisements of a client registered.
#[derive(Debug)]
pub(crate) struct AdvertisementManager {
    settings: Settings,
    topics: BTreeMap<u64, Topic>,
    by_name: HashMap<TopicName, u64>,
    by_id: HashMap<AdvertisementId, u64>,
    last_number: u64,
    schedule: Schedule,
    /// The earliest time for the next refreshing REGISTER.
    paced_until: Option<Instant>,
    connection: ConnectionState,
    daemon: DaemonFeatures,
    in_flight: Option<InFlight>,
    events: VecDeque<(AdvertisementId, AdvertisementEvent)>,
}

#[derive(Debug)]
struct InFlight {
    at: Instant,
    kind: RequestKind,
}

#[derive(Clone, Debug)]
enum RequestKind {
    /// A LOOKUP that shows whether the daemon sees the process that registered this topic.
    CheckIdentity {
        topic: u64,
        id: AdvertisementId,
    },
    Renew,
    Register {
        topic: u64,
        id: AdvertisementId,
        in_session: bool,
        previous: Option<Registration>,
    },
    /// A LOOKUP that shows whether the registration is still this client's. It comes before the
    /// withdrawal from a daemon that may ignore the conditions of an UNREGISTER.
    CheckRegistration(u64),
    Withdraw(u64),
}

/// The knowledge about the daemon of this connection.
#[derive(Debug, Default)]
struct DaemonFeatures {
    /// Whether the last answer had an extension, as from a daemon of level 1.
    is_extended: Option<bool>,
    /// Whether the daemon sees which process registers a topic.
    sees_process: Option<bool>,
    /// The topic whose entry shows that, and its advertisement.
    identity_check: Option<(u64, AdvertisementId)>,
    /// When to renew the session.
    renew_at: Option<Instant>,
}

impl AdvertisementManager {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            topics: BTreeMap::new(),
            by_name: HashMap::new(),
            by_id: HashMap::new(),
            last_number: 0,
            schedule: Schedule::default(),
            paced_until: None,
            connection: ConnectionState::new(),
            daemon: DaemonFeatures::default(),
            in_flight: None,
            events: VecDeque::new(),
        }
    }

    /// Starts an advertisement, which replaces an earlier one of the same topic.
    pub(crate) fn add(&mut self, id: AdvertisementId, info: TopicInfo, now: Instant) {
        self.connection.advertisement_added(self.topics.is_empty(), now);
        let number = self.by_name.get(&info.name).copied().unwrap_or_else(|| {
            self.last_number += 1;
            self.by_name.insert(info.name.clone(), self.last_number);
            self.last_number
        });
        let name = info.name.clone();
        let topic = self.topics.entry(number).or_insert_with(|| Topic::new(name));
        let advertisement = CurrentAdvertisement {
            id,
            info,
            state: RegistrationState::Unconfirmed,
            reported_error: None,
        };
        if let Some(replaced) = topic.advertisement.replace(advertisement) {
            self.by_id.remove(&replaced.id);
            self.events.push_back((replaced.id, AdvertisementEvent::Replaced));
        }
        topic.retry_pause = FIRST_PAUSE;
        self.by_id.insert(id, number);
        self.schedule_now(number);
    }

    /// Ends an advertisement and withdraws its topic, unless a later advertisement has taken it
    /// over.
    pub(crate) fn remove(&mut self, id: AdvertisementId) {
        let number = self.by_id.remove(&id);
        let Some((number, topic)) =
            number.and_then(|number| Some((number, self.topics.get_mut(&number)?)))
        else {
            self.events.push_back((id, AdvertisementEvent::Ended(Ok(()))));
            return;
        };
        topic.advertisement = None;
        topic.retry_pause = FIRST_PAUSE;
        if topic.registration.is_some() && !self.connection.is_up() {
            // The manager withdraws the topic when the daemon is back; the user does not wait.
            self.events.push_back((id, AdvertisementEvent::Ended(Err(self.settings.no_answer()))));
        } else {
            topic.ending.push(id);
        }
        self.schedule_now(number);
    }

    /// Whether the manager has no topic to keep or to withdraw.
    pub(crate) fn is_idle(&self) -> bool {
        self.topics.is_empty()
    }

    /// The events since the last call, in order.
    pub(crate) fn take_events(&mut self) -> VecDeque<(AdvertisementId, AdvertisementEvent)> {
        mem::take(&mut self.events)
    }

    /// What to do at `now`. Spurious calls change nothing; a request is returned only once.
    pub(crate) fn next_action(&mut self, now: Instant) -> ManagerAction {
        if let Some(in_flight) = &self.in_flight {
            let left = until(in_flight.at + self.settings.timeout, now);
            if !left.is_zero() {
                return ManagerAction::Wait(Some(left));
            }
            self.disconnect(now);
        }
        let report_at = self.report_outage(now);
        if self.topics.is_empty() {
            return ManagerAction::Wait(None);
        }
        let due = match self.connection.next_action(now) {
            ConnectionAction::Connect => return ManagerAction::Connect,
            ConnectionAction::Wait(until) => until,
            ConnectionAction::Send => match self.next_request_kind(now) {
                Some(kind) => return ManagerAction::Send(Box::new(self.start_request(kind, now))),
                None => self.next_due(),
            },
        };
        let at = [due, report_at].into_iter().flatten().min();
        ManagerAction::Wait(at.map(|at| until(at, now)))
    }

    /// The last requested connection has completed its handshake.
    pub(crate) fn connected(&mut self) {
        self.connection.connected();
    }

    /// The connection was lost. A connection in progress retries by itself.
    pub(crate) fn lost(&mut self, now: Instant) {
        if self.connection.is_up() {
            self.disconnect(now);
        }
    }

    /// The client could not make or use the connection.
    pub(crate) fn failed(&mut self, error: &Error, now: Instant) {
        self.disconnect(now);
        let numbers: Vec<_> = self.topics.keys().copied().collect();
        for number in numbers {
            self.report_error(number, error.clone());
        }
    }

    /// The answer to the outstanding request arrived.
    pub(crate) fn answered(&mut self, reply: Result<Reply>, now: Instant) {
        let Some(InFlight { at, kind }) = self.in_flight.take() else { return };
        self.connection.answered();
        if let Ok(reply) = &reply {
            self.daemon.is_extended = Some(reply.ext().is_some());
        }
        match kind {
            RequestKind::CheckIdentity { topic, id } => self.identity_checked(topic, id, reply),
            RequestKind::Renew => self.session_renewed(&reply, at),
            RequestKind::Register { topic, id, in_session, previous } => {
                let ext = reply.as_ref().ok().and_then(Reply::ext).cloned();
                let is_done = self.registered(topic, id, previous, reply, now);
                if is_done && in_session {
                    self.extend_lease(ext.as_ref(), at);
                }
            }
            RequestKind::CheckRegistration(number) => self.registration_checked(number, reply, now),
            RequestKind::Withdraw(number) => self.topic_withdrawn(number, reply),
        }
    }

    /// Schedules a topic at once. While a request about it is outstanding, its answer does that.
    fn schedule_now(&mut self, number: u64) {
        let is_asked =
            self.in_flight.as_ref().is_some_and(|in_flight| in_flight.topic() == Some(number));
        let Some(topic) = self.topics.get_mut(&number) else { return };
        if !topic.must_withdraw() {
            let gone = topic.ending.drain(..).map(|id| (id, AdvertisementEvent::Ended(Ok(()))));
            self.events.extend(gone);
        }
        if topic.advertisement.is_none() && topic.registration.is_none() {
            self.by_name.remove(&topic.name);
            self.topics.remove(&number);
            self.schedule.remove(number);
        } else if !is_asked {
            let due = if topic.must_withdraw() { Due::Withdraw } else { Due::Register };
            self.schedule.set(number, due);
        }
    }

    /// Schedules a topic after a pause, which grows.
    fn schedule_after_pause(&mut self, number: u64, longest: Duration, now: Instant) {
        let Some(topic) = self.topics.get_mut(&number) else { return };
        let retry_pause = topic.retry_pause.min(longest);
        topic.retry_pause = retry_pause * 2;
        self.schedule.set(number, Due::At(now + retry_pause));
    }

    fn disconnect(&mut self, now: Instant) {
        let since = self.in_flight.take().map_or(now, |in_flight| in_flight.at);
        self.connection.lost(since, now);
        self.daemon = DaemonFeatures::default();
        let numbers: Vec<_> = self.topics.keys().copied().collect();
        for number in numbers {
            if let Some(topic) = self.topics.get_mut(&number) {
                topic.is_verified = false;
                topic.withdraw_error = None;
                topic.retry_pause = FIRST_PAUSE;
                if let Some(advertisement) = &mut topic.advertisement
                    && mem::replace(&mut advertisement.state, RegistrationState::Unconfirmed)
                        != RegistrationState::Unconfirmed
                {
                    self.events.push_back((advertisement.id, AdvertisementEvent::Unconfirmed));
                }
                let error = self.settings.no_answer();
                let gone = topic
                    .ending
                    .drain(..)
                    .map(|id| (id, AdvertisementEvent::Ended(Err(error.clone()))));
                self.events.extend(gone);
            }
            self.schedule_now(number);
        }
    }

    /// Reports an outage to all advertisements when it has lasted for the timeout. Before that it
    /// returns the time of the report.
    fn report_outage(&mut self, now: Instant) -> Option<Instant> {
        let at = self.connection.outage_deadline(self.settings.timeout)?;
        if now < at {
            return Some(at);
        }
        self.connection.outage_reported();
        let numbers: Vec<_> = self.topics.keys().copied().collect();
        for number in numbers {
            self.report_error(number, self.settings.no_answer());
        }
        None
    }

    /// The next request that is due.
    fn next_request_kind(&mut self, now: Instant) -> Option<RequestKind> {
        if let Some((topic, id)) = self.daemon.identity_check.take() {
            return Some(RequestKind::CheckIdentity { topic, id });
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
            let (id, in_session, previous) =
                (advertisement.id, self.in_session(), topic.registration.clone());
            return Some(RequestKind::Register { topic: number, id, in_session, previous });
        }
        // Only a daemon of level 1 checks the conditions of an UNREGISTER. After a refusal the
        // topic may belong to another process by now.
        let checks_conditions =
            self.daemon.is_extended == Some(true) && topic.withdraw_error.is_none();
        let may_withdraw = topic.is_verified || checks_conditions;
        Some(if may_withdraw {
            RequestKind::Withdraw(number)
        } else {
            RequestKind::CheckRegistration(number)
        })
    }

    /// When the next scheduled request is due.
    fn next_due(&self) -> Option<Instant> {
        let due = self.schedule.first().and_then(|(due, _)| match due {
            Due::At(at) => Some(self.paced_until.map_or(at, |paced| paced.max(at))),
            Due::Withdraw | Due::Register => None,
        });
        [due, self.daemon.renew_at].into_iter().flatten().min()
    }

    fn start_request(&mut self, kind: RequestKind, now: Instant) -> DiscoveryRequest {
        let request = self.request(&kind);
        self.in_flight = Some(InFlight { at: now, kind });
        request
    }

    fn request(&mut self, kind: &RequestKind) -> DiscoveryRequest {
        let name = |number| {
            self.topics.get(&number).map_or_else(String::new, |topic| topic.name.clone().into())
        };
        match *kind {
            RequestKind::CheckIdentity { topic: number, .. }
            | RequestKind::CheckRegistration(number) => {
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
                    let info = topic.advertisement.as_ref()?.info.clone();
                    // From now on the daemon may have the topic, at an unknown revision.
                    let node = info.publisher_node.clone();
                    topic.registration = Some(Registration { node, revision: None });
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
                    publisher_node: registration.map(|registration| registration.node),
                    ..RequestExt::default()
                })
            }
        }
    }

    fn session(&self) -> Session {
        Session { id: self.settings.session_id.clone(), lease_ms: Some(millis(LEASE)) }
    }

    /// Whether to register topics in a session: over TCP always, over ipc only when the daemon has
    /// not seen the process of an earlier REGISTER.
    fn in_session(&self) -> bool {
        !self.settings.address.starts_with("ipc://") || self.daemon.sees_process == Some(false)
    }

    fn hold(&self) -> Option<Hold> {
        match self.daemon.is_extended {
            Some(true) if self.in_session() => Some(Hold::Session),
            Some(true) => Some(Hold::Process),
            Some(false) | None => None,
        }
    }

    /// The answer to REGISTER. True when the daemon has registered the topic.
    fn registered(
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
                self.schedule.set(number, Due::At(now + REFRESH));
                let is_extended = self.daemon.is_extended == Some(true);
                if is_extended && !self.in_session() && self.daemon.sees_process.is_none() {
                    self.daemon.identity_check = Some((number, id));
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

    /// Reports that a topic is registered, if that is new.
    fn report_registered(&mut self, number: u64, id: AdvertisementId) {
        let hold = self.hold();
        let advertisement =
            self.topics.get_mut(&number).and_then(|topic| topic.advertisement.as_mut());
        let state = RegistrationState::Registered { hold: hold.clone() };
        if let Some(advertisement) = advertisement
            && advertisement.id == id
            && advertisement.state != state
        {
            advertisement.state = state;
            advertisement.reported_error = None;
            self.events.push_back((advertisement.id, AdvertisementEvent::Registered { hold }));
        }
    }

    /// Reports why a topic is not registered, if that is new.
    fn report_error(&mut self, number: u64, error: Error) {
        let advertisement =
            self.topics.get_mut(&number).and_then(|topic| topic.advertisement.as_mut());
        if let Some(advertisement) = advertisement {
            advertisement.state = RegistrationState::Unconfirmed;
            if advertisement.reported_error.as_ref() != Some(&error) {
                advertisement.reported_error = Some(error.clone());
                self.events.push_back((advertisement.id, AdvertisementEvent::Trouble(error)));
            }
        }
    }

    fn identity_checked(&mut self, number: u64, id: AdvertisementId, reply: Result<Reply>) {
        if self.daemon.is_extended == Some(true) {
            let entry = reply.ok().and_then(|reply| reply.ext()?.entry.clone());
            // Without an entry, the client checks again after the next REGISTER.
            self.daemon.sees_process = entry.map(|entry| entry.pid.is_some());
        }
        if self.in_session() {
            self.schedule_now(number);
        } else {
            self.report_registered(number, id);
        }
    }

    /// The session has a full lease since `sent_at`, if the daemon has leases.
    fn extend_lease(&mut self, ext: Option<&ResponseExt>, sent_at: Instant) {
        self.daemon.renew_at = ext.map(|ext| {
            let lease = ext.lease_ms.map_or(LEASE, Duration::from_millis).min(LEASE);
            sent_at + (lease / 4).max(PACE)
        });
    }

    fn session_renewed(&mut self, reply: &Result<Reply>, sent_at: Instant) {
        let ext = reply.as_ref().ok().and_then(Reply::ext);
        self.extend_lease(ext, sent_at);
        if ext.and_then(|ext| ext.known) == Some(false) {
            // The daemon has lost the session. The first REGISTER of its topics creates it again.
            self.daemon.renew_at = None;
            let lost = self.topics.iter().filter(|(_, topic)| topic.is_registered());
            let lost: Vec<_> = lost.map(|(number, _)| *number).collect();
            for number in lost {
                self.schedule_now(number);
            }
        }
    }

    fn registration_checked(&mut self, number: u64, reply: Result<Reply>, now: Instant) {
        let Some(topic) = self.topics.get_mut(&number) else { return };
        let ext = reply.as_ref().ok().and_then(Reply::ext);
        let revision = ext.and_then(|ext| Some(ext.entry.as_ref()?.revision));
        match reply.and_then(|reply| reply.found(topic.name.as_str())) {
            Ok(info) => {
                topic.registration = topic
                    .registration
                    .take()
                    .filter(|registration| registration.is(&info, revision));
                topic.is_verified = true;
            }
            Err(Error::NoSuchTopic { .. }) => topic.registration = None,
            Err(error) => topic.withdraw_error = Some(error),
        }
        match topic.withdraw_error.take() {
            Some(error) if topic.registration.is_some() => {
                let gone = topic
                    .ending
                    .drain(..)
                    .map(|id| (id, AdvertisementEvent::Ended(Err(error.clone()))));
                self.events.extend(gone);
                self.report_error(number, error);
                self.schedule_after_pause(number, MAX_PAUSE, now);
            }
            _ => self.schedule_now(number),
        }
    }

    fn topic_withdrawn(&mut self, number: u64, reply: Result<Reply>) {
        let Some(topic) = self.topics.get_mut(&number) else { return };
        match reply.and_then(|reply| reply.unregistered(topic.name.as_str())) {
            Ok(()) | Err(Error::NoSuchTopic { .. }) => topic.registration = None,
            Err(error) => topic.withdraw_error = Some(error),
        }
        topic.is_verified = false;
        self.schedule_now(number);
    }
}

impl Settings {
    fn no_answer(&self) -> Error {
        Error::NoAnswer { address: self.address.clone(), waited: self.timeout, attempts: 1 }
    }
}

impl InFlight {
    /// The topic that the answer schedules again.
    fn topic(&self) -> Option<u64> {
        match self.kind {
            RequestKind::Register { topic, .. }
            | RequestKind::CheckRegistration(topic)
            | RequestKind::Withdraw(topic) => Some(topic),
            RequestKind::CheckIdentity { .. } | RequestKind::Renew => None,
        }
    }
}

fn until(at: Instant, now: Instant) -> Duration {
    at.saturating_duration_since(now)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
