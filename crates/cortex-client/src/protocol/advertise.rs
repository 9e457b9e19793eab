//! Decides which topics to register, renew or withdraw, and when, for all advertisements of a client.
//!
//! The manager has one request at a time. All knowledge about the daemon belongs to one connection.
//!
//! The first REGISTER of an advertisement takes a topic over from an earlier process of the same
//! node, as a restarted node wants. After that the manager looks before it registers again: at each
//! interval and on each new connection. When it finds the topic of another process, it yields until
//! that is gone. So of two processes that overlap the later one keeps the topic, and the earlier one
//! reports [`Error::Superseded`].

mod answers;
mod outage;
mod requests;
mod schedule;
#[cfg(test)]
mod tests;
mod topic;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem;
use std::time::{Duration, Instant};

use cortex_proto::{Hold, TopicInfo, TopicName};

use self::outage::Outage;
use self::schedule::{Due, Schedule};
use self::topic::{CurrentAdvertisement, Registration, RegistrationState, Topic};
use super::reply::Reply;
use super::request::{OnLoss, Query};
use super::{Action, Outcome};
use crate::error::{ConnectError, Error, Result};

/// The time between two checks of a topic, so that it comes back after another process has removed
/// it.
const REFRESH: Duration = Duration::from_secs(5);
/// The same at a legacy daemon, where a restarted node of the same endpoint looks like the old one,
/// and loses its topic for a moment when the old one ends.
const LEGACY_REFRESH: Duration = Duration::from_secs(1);
/// The shortest time between two such checks of any topics.
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
pub(crate) struct AdvertisementSettings {
    /// The daemon's address.
    pub(crate) address: String,
    /// How long a request waits for its answer.
    pub(crate) timeout: Duration,
    /// The id of the session, for a daemon that cannot see this process.
    pub(crate) session_id: String,
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
    settings: AdvertisementSettings,
    topics: BTreeMap<u64, Topic>,
    by_name: HashMap<TopicName, u64>,
    by_id: HashMap<AdvertisementId, u64>,
    last_number: u64,
    schedule: Schedule,
    /// The earliest time for the next check.
    paced_until: Option<Instant>,
    is_connected: bool,
    /// Why the client could not connect, as far as it knows.
    connect_error: Option<ConnectError>,
    outage: Option<Outage>,
    daemon: DaemonFeatures,
    /// This process as the daemon's answers name it.
    own_pid: Option<u64>,
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
    /// A LOOKUP that shows whether the topic is registered, by which process, and whether the
    /// daemon sees that process. It comes also before the withdrawal from a daemon that may ignore
    /// the conditions of an UNREGISTER.
    Check(u64),
    Renew,
    Register {
        topic: u64,
        id: AdvertisementId,
        in_session: bool,
        previous: Option<Registration>,
    },
    Withdraw(u64),
}

/// The knowledge about the daemon of this connection.
#[derive(Debug, Default)]
struct DaemonFeatures {
    /// Whether the last answer had an extension, as from a daemon of level 1.
    is_extended: Option<bool>,
    /// Whether the daemon sees which process registers a topic.
    sees_process: Option<bool>,
    /// The topic whose entry shows that.
    identity_check: Option<u64>,
    /// When to renew the session.
    renew_at: Option<Instant>,
}

impl AdvertisementManager {
    pub(crate) fn new(settings: AdvertisementSettings) -> Self {
        Self {
            settings,
            topics: BTreeMap::new(),
            by_name: HashMap::new(),
            by_id: HashMap::new(),
            last_number: 0,
            schedule: Schedule::default(),
            paced_until: None,
            is_connected: false,
            connect_error: None,
            outage: None,
            daemon: DaemonFeatures::default(),
            own_pid: None,
            in_flight: None,
            events: VecDeque::new(),
        }
    }

    /// Starts an advertisement, which replaces an earlier one of the same topic.
    pub(crate) fn add(&mut self, id: AdvertisementId, info: TopicInfo, now: Instant) {
        if self.topics.is_empty() && !self.is_connected {
            self.outage = Some(Outage::begin(now));
        } else if let Some(outage) = &mut self.outage {
            // A new advertisement during an outage gets a report of it as well.
            outage.is_reported = false;
        }
        let number = self.by_name.get(&info.name).copied().unwrap_or_else(|| {
            self.last_number += 1;
            self.by_name.insert(info.name.clone(), self.last_number);
            self.last_number
        });
        let name = info.name.clone();
        let topic = self.topics.entry(number).or_insert_with(|| Topic::new(name));
        let advertisement = CurrentAdvertisement::new(id, info);
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
        if topic.registration.is_some() && !self.is_connected {
            // The manager withdraws the topic when the daemon is back; the user does not wait.
            self.events.push_back((
                id,
                AdvertisementEvent::Ended(Err(self.settings.no_answer(self.connect_error.clone()))),
            ));
        } else {
            topic.ending.push(id);
        }
        self.schedule_now(number);
    }

    /// Ends all advertisements.
    pub(crate) fn remove_all(&mut self) {
        let ids: Vec<_> = self.by_id.keys().copied().collect();
        for id in ids {
            self.remove(id);
        }
    }

    /// Whether the manager has no topic to keep or to withdraw.
    pub(crate) fn is_idle(&self) -> bool {
        self.topics.is_empty()
    }

    fn is_extended(&self) -> bool {
        self.daemon.is_extended == Some(true)
    }

    /// Whether the daemon is a legacy daemon, as far as its last answer shows.
    pub(crate) fn is_legacy(&self) -> bool {
        self.daemon.is_extended == Some(false)
    }

    /// The events since the last call, in order.
    pub(crate) fn take_events(&mut self) -> VecDeque<(AdvertisementId, AdvertisementEvent)> {
        mem::take(&mut self.events)
    }

    /// What to do at `now`. Spurious calls change nothing; a request is returned only once.
    pub(crate) fn next_action(&mut self, now: Instant) -> Action {
        let report_at = self.report_outage(now);
        if self.in_flight.is_some() || !self.is_connected || self.topics.is_empty() {
            return Action::Wait(report_at);
        }
        match self.next_request_kind(now) {
            Some(kind) => {
                let request = self.request(&kind);
                self.in_flight = Some(InFlight { at: now, kind });
                // On a new connection the manager decides anew.
                let query = Query::immediate(&request, self.settings.timeout);
                Action::Send(Query { on_loss: OnLoss::Report, ..query })
            }
            None => Action::Wait([self.next_due(), report_at].into_iter().flatten().min()),
        }
    }

    /// The connection has completed its handshake.
    pub(crate) fn connected(&mut self) {
        self.is_connected = true;
        self.connect_error = None;
        self.outage.take_if(|outage| !outage.has_failed_request);
    }

    /// The client could not connect, for this reason.
    pub(crate) fn not_connected(&mut self, error: Option<ConnectError>) {
        self.connect_error = error;
    }

    /// The connection was lost.
    pub(crate) fn disconnected(&mut self, now: Instant) {
        self.is_connected = false;
        self.forget_daemon(now);
    }

    /// The request of the last action has ended at `now`.
    pub(crate) fn outcome(&mut self, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Reply(raw) => self.answered(Reply::read(&raw), now),
            Outcome::Lost | Outcome::NoAnswer { .. } => self.forget_daemon(now),
            Outcome::Failed(error) => {
                self.forget_daemon(now);
                self.failed(&error);
            }
        }
    }

    fn answered(&mut self, reply: Result<Reply>, now: Instant) {
        let Some(InFlight { at, kind }) = self.in_flight.take() else { return };
        self.outage = None;
        if let Ok(reply) = &reply {
            self.daemon.is_extended = Some(reply.ext().is_some());
        }
        match kind {
            RequestKind::Check(number) => self.checked(number, reply, now),
            RequestKind::Renew => self.session_renewed(&reply, at),
            RequestKind::Register { topic, id, in_session, previous } => {
                let ext = reply.as_ref().ok().and_then(Reply::ext).cloned();
                let is_done = self.registered(topic, id, previous, reply, now);
                if is_done && in_session {
                    self.extend_lease(ext.as_ref(), at);
                }
            }
            RequestKind::Withdraw(number) => self.topic_withdrawn(number, reply),
        }
    }

    fn numbers(&self) -> Vec<u64> {
        self.topics.keys().copied().collect()
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
}

impl AdvertisementSettings {
    fn no_answer(&self, cause: Option<ConnectError>) -> Error {
        let (address, waited) = (self.address.clone(), self.timeout);
        Error::NoAnswer { address, waited, attempts: 1, cause }
    }
}

impl InFlight {
    /// The topic that the answer schedules again.
    fn topic(&self) -> Option<u64> {
        match self.kind {
            RequestKind::Register { topic, .. }
            | RequestKind::Check(topic)
            | RequestKind::Withdraw(topic) => Some(topic),
            RequestKind::Renew => None,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
