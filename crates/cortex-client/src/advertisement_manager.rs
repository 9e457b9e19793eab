//! Which topics must be registered, renewed or taken back at the daemon, and when.
//!
//! As in [`exchange`](crate::exchange), there is no socket and no clock: the driver carries out
//! what [`AdvertisementManager::next`] says, tells what came of it, and hands on what [`AdvertisementManager::take_events`]
//! gives. It has one connection, with one request at a time on it.
//!
//! Everything that is known of the daemon belongs to a connection. With a new one all topics are
//! registered again: an unchanged REGISTER costs a daemon nothing, and a daemon that is another
//! one, or has lost its memory, has them at once.

mod connection_state;
mod schedule;
mod topic;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem;
use std::time::{Duration, Instant};

use cortex_proto::{
    DiscoveryRequest, Hold, RequestExt, ResponseExt, Session, TopicInfo, TopicName,
};

use self::connection_state::{ConnectionState, Step};
use self::schedule::{Due, Schedule};
use self::topic::{Placed, Standing, Topic, Wanted};
use crate::error::{Error, Result};
use crate::reply::Reply;

/// A topic is registered again after this time: so one that somebody else has taken away comes
/// back.
const REFRESH: Duration = Duration::from_secs(5);
/// The least time from one such REGISTER to the next, whatever the number of topics.
const PACE: Duration = Duration::from_millis(20);
/// What the daemon has refused is tried again after this time, then after twice as long, …
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// … for as long as this, when another node has the topic, …
const MAX_PAUSE_WHEN_TAKEN: Duration = REFRESH;
/// … or as this, when the daemon does not want it.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// How long a session outlives its process.
pub(crate) const LEASE: Duration = Duration::from_secs(10);

/// The number of an advertisement; the driver gives each another one.
pub(crate) type Id = u64;

/// What does not change.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where the daemon is expected.
    pub(crate) address: String,
    /// How long a request waits for its answer.
    pub(crate) timeout: Duration,
    /// The name of the session, for where the daemon cannot see this process.
    pub(crate) session_id: String,
}

/// What the driver has to do now, and then to ask again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Give up the connection there is, and make a new one. When the daemon has greeted, tell
    /// [`AdvertisementManager::connected`].
    Connect,
    /// Send this, and tell [`AdvertisementManager::answered`] when the answer is there.
    Ask(Box<DiscoveryRequest>),
    /// Wait for what happens, at most this long; `None` is for ever.
    Rest(Option<Duration>),
}

/// What has become of an advertisement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AdvertisementEvent {
    /// The daemon has the topic.
    Registered { hold: Option<Hold> },
    /// The connection is lost, so nobody knows what the daemon has.
    Unsure,
    /// It is not registered, and that does not pass by itself at once.
    Trouble(Error),
    /// A later advertisement has the topic.
    Replaced,
    /// It is withdrawn, or cannot be at present; that is the last that is heard of it.
    Gone(Result<()>),
}

/// Keeps topics registered.
#[derive(Debug)]
pub(crate) struct AdvertisementManager {
    settings: Settings,
    topics: BTreeMap<u64, Topic>,
    by_name: HashMap<TopicName, u64>,
    by_id: HashMap<Id, u64>,
    last_number: u64,
    schedule: Schedule,
    /// Not before this a topic is registered again that needs not be.
    paced_until: Option<Instant>,
    connection: ConnectionState,
    daemon: Daemon,
    asked: Option<Asked>,
    events: VecDeque<(Id, AdvertisementEvent)>,
}

#[derive(Debug)]
struct Asked {
    at: Instant,
    question: Question,
}

#[derive(Clone, Debug)]
enum Question {
    /// Whether the daemon saw who registered this topic.
    DoesItSee {
        topic: u64,
        id: Id,
    },
    Renew,
    Register {
        topic: u64,
        id: Id,
        in_session: bool,
        before: Option<Placed>,
    },
    /// Whether it has this topic from here; asked before it is withdrawn from a daemon that may
    /// not heed conditions.
    HasIt(u64),
    Withdraw(u64),
}

/// What is known of the daemon at the other end of this connection.
#[derive(Debug, Default)]
struct Daemon {
    /// Whether its last answer had an extension: level 1.
    is_extended: Option<bool>,
    /// Whether it sees which process registers.
    sees: Option<bool>,
    /// The topic at which that can be told, and whose it is.
    shows: Option<(u64, Id)>,
    /// When the session is to be renewed.
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
            daemon: Daemon::default(),
            asked: None,
            events: VecDeque::new(),
        }
    }

    /// Keeps a topic registered from now on, in place of an earlier advertisement of it.
    pub(crate) fn add(&mut self, id: Id, info: TopicInfo, now: Instant) {
        self.connection.wanted(self.topics.is_empty(), now);
        let number = self.by_name.get(&info.name).copied().unwrap_or_else(|| {
            self.last_number += 1;
            self.by_name.insert(info.name.clone(), self.last_number);
            self.last_number
        });
        let name = info.name.clone();
        let topic = self.topics.entry(number).or_insert_with(|| Topic::new(name));
        let wanted = Wanted { id, info, standing: Standing::Unsure, told: None };
        if let Some(replaced) = topic.wanted.replace(wanted) {
            self.by_id.remove(&replaced.id);
            self.events.push_back((replaced.id, AdvertisementEvent::Replaced));
        }
        topic.pause = FIRST_PAUSE;
        self.by_id.insert(id, number);
        self.hurry(number);
    }

    /// Ends an advertisement: its topic is withdrawn, unless a later one has it.
    pub(crate) fn remove(&mut self, id: Id) {
        let number = self.by_id.remove(&id);
        let Some((number, topic)) =
            number.and_then(|number| Some((number, self.topics.get_mut(&number)?)))
        else {
            self.events.push_back((id, AdvertisementEvent::Gone(Ok(()))));
            return;
        };
        topic.wanted = None;
        topic.pause = FIRST_PAUSE;
        if topic.placed.is_some() && !self.connection.is_up() {
            // It is withdrawn when the daemon is back; nobody has to wait for that.
            self.events.push_back((id, AdvertisementEvent::Gone(Err(self.settings.no_answer()))));
        } else {
            topic.leaving.push(id);
        }
        self.hurry(number);
    }

    /// Whether there is nothing to keep and nothing to withdraw.
    pub(crate) fn is_idle(&self) -> bool {
        self.topics.is_empty()
    }

    /// What has happened since the last call, in order.
    pub(crate) fn take_events(&mut self) -> VecDeque<(Id, AdvertisementEvent)> {
        mem::take(&mut self.events)
    }

    /// What to do at `now`. Asking again without need changes nothing, but that a request under
    /// way is not given again.
    pub(crate) fn next(&mut self, now: Instant) -> Next {
        if let Some(asked) = &self.asked {
            let left = until(asked.at + self.settings.timeout, now);
            if !left.is_zero() {
                return Next::Rest(Some(left));
            }
            self.disconnect(now);
        }
        let told_at = self.report_outage(now);
        if self.topics.is_empty() {
            return Next::Rest(None);
        }
        let turn = match self.connection.step(now) {
            Step::Connect => return Next::Connect,
            Step::Wait(until) => until,
            Step::Ask => match self.choose(now) {
                Some(question) => return Next::Ask(Box::new(self.ask(question, now))),
                None => self.next_turn(),
            },
        };
        let at = [turn, told_at].into_iter().flatten().min();
        Next::Rest(at.map(|at| until(at, now)))
    }

    /// The daemon has greeted on the connection that was asked for last.
    pub(crate) fn connected(&mut self) {
        self.connection.connected();
    }

    /// The connection went away. One that is not there yet comes by itself.
    pub(crate) fn lost(&mut self, now: Instant) {
        if self.connection.is_up() {
            self.disconnect(now);
        }
    }

    /// The connection cannot be made or used, for a reason on this side.
    pub(crate) fn failed(&mut self, error: &Error, now: Instant) {
        self.disconnect(now);
        let numbers: Vec<_> = self.topics.keys().copied().collect();
        for number in numbers {
            self.trouble(number, error.clone());
        }
    }

    /// The answer to the request under way.
    pub(crate) fn answered(&mut self, reply: Result<Reply>, now: Instant) {
        let Some(Asked { at, question }) = self.asked.take() else { return };
        self.connection.answered();
        if let Ok(reply) = &reply {
            self.daemon.is_extended = Some(reply.ext().is_some());
        }
        match question {
            Question::DoesItSee { topic, id } => self.saw(topic, id, reply),
            Question::Renew => self.renewed(&reply, at),
            Question::Register { topic, id, in_session, before } => {
                let ext = reply.as_ref().ok().and_then(Reply::ext).cloned();
                let is_done = self.registered(topic, id, before, reply, now);
                if is_done && in_session {
                    self.extend_lease(ext.as_ref(), at);
                }
            }
            Question::HasIt(number) => self.looked(number, reply, now),
            Question::Withdraw(number) => self.withdrew(number, reply),
        }
    }

    /// Gives a topic its turn at once, unless it is being asked about: then its answer does that.
    fn hurry(&mut self, number: u64) {
        let is_asked = self.asked.as_ref().is_some_and(|asked| asked.topic() == Some(number));
        let Some(topic) = self.topics.get_mut(&number) else { return };
        if !topic.is_misplaced() {
            let gone = topic.leaving.drain(..).map(|id| (id, AdvertisementEvent::Gone(Ok(()))));
            self.events.extend(gone);
        }
        if topic.wanted.is_none() && topic.placed.is_none() {
            self.by_name.remove(&topic.name);
            self.topics.remove(&number);
            self.schedule.take(number);
        } else if !is_asked {
            let turn = if topic.is_misplaced() { Due::Withdraw } else { Due::Register };
            self.schedule.set(number, turn);
        }
    }

    /// Gives a topic its turn after a pause, which grows.
    fn defer(&mut self, number: u64, longest: Duration, now: Instant) {
        let Some(topic) = self.topics.get_mut(&number) else { return };
        let pause = topic.pause.min(longest);
        topic.pause = pause * 2;
        self.schedule.set(number, Due::At(now + pause));
    }

    fn disconnect(&mut self, now: Instant) {
        let since = self.asked.take().map_or(now, |asked| asked.at);
        self.connection.lost(since, now);
        self.daemon = Daemon::default();
        let numbers: Vec<_> = self.topics.keys().copied().collect();
        for number in numbers {
            if let Some(topic) = self.topics.get_mut(&number) {
                topic.is_found = false;
                topic.refusal = None;
                topic.pause = FIRST_PAUSE;
                if let Some(wanted) = &mut topic.wanted
                    && mem::replace(&mut wanted.standing, Standing::Unsure) != Standing::Unsure
                {
                    self.events.push_back((wanted.id, AdvertisementEvent::Unsure));
                }
                let error = self.settings.no_answer();
                let gone = topic
                    .leaving
                    .drain(..)
                    .map(|id| (id, AdvertisementEvent::Gone(Err(error.clone()))));
                self.events.extend(gone);
            }
            self.hurry(number);
        }
    }

    /// Tells all who wait that nobody answers, once that is so for long enough. Gives the time at
    /// which it will be.
    fn report_outage(&mut self, now: Instant) -> Option<Instant> {
        let at = self.connection.outage_deadline(self.settings.timeout)?;
        if now < at {
            return Some(at);
        }
        self.connection.outage_reported();
        let numbers: Vec<_> = self.topics.keys().copied().collect();
        for number in numbers {
            self.trouble(number, self.settings.no_answer());
        }
        None
    }

    /// What to ask now.
    fn choose(&mut self, now: Instant) -> Option<Question> {
        if let Some((topic, id)) = self.daemon.shows.take() {
            return Some(Question::DoesItSee { topic, id });
        }
        if self.daemon.renew_at.is_some_and(|at| at <= now) {
            return Some(Question::Renew);
        }
        let (turn, number) = self.schedule.first()?;
        if let Due::At(at) = turn {
            if now < self.paced_until.map_or(at, |paced| paced.max(at)) {
                return None;
            }
            self.paced_until = Some(now + PACE);
        }
        self.schedule.take(number);
        let topic = self.topics.get(&number)?;
        if let Some(wanted) = &topic.wanted
            && !topic.is_misplaced()
        {
            let (id, in_session, before) = (wanted.id, self.in_session(), topic.placed.clone());
            return Some(Question::Register { topic: number, id, in_session, before });
        }
        // The condition of an UNREGISTER is heeded by a daemon of level 1 alone; and when it is
        // refused, the topic may be another one's by now.
        let is_heeded = self.daemon.is_extended == Some(true) && topic.refusal.is_none();
        let may_withdraw = topic.is_found || is_heeded;
        Some(if may_withdraw { Question::Withdraw(number) } else { Question::HasIt(number) })
    }

    /// When there is something to ask again.
    fn next_turn(&self) -> Option<Instant> {
        let turn = self.schedule.first().and_then(|(turn, _)| match turn {
            Due::At(at) => Some(self.paced_until.map_or(at, |paced| paced.max(at))),
            Due::Withdraw | Due::Register => None,
        });
        [turn, self.daemon.renew_at].into_iter().flatten().min()
    }

    fn ask(&mut self, question: Question, now: Instant) -> DiscoveryRequest {
        let request = self.request(&question);
        self.asked = Some(Asked { at: now, question });
        request
    }

    fn request(&mut self, question: &Question) -> DiscoveryRequest {
        let name = |number| {
            self.topics.get(&number).map_or_else(String::new, |topic| topic.name.clone().into())
        };
        match *question {
            Question::DoesItSee { topic: number, .. } | Question::HasIt(number) => {
                DiscoveryRequest::lookup(name(number)).with_ext(RequestExt::default())
            }
            Question::Renew => DiscoveryRequest::renew(self.session()),
            Question::Register { topic: number, in_session, .. } => {
                let ext = RequestExt {
                    hold: in_session.then_some(Hold::Session),
                    session: in_session.then(|| self.session()),
                    ..RequestExt::default()
                };
                let topic = self.topics.get_mut(&number);
                let info = topic.and_then(|topic| {
                    let info = topic.wanted.as_ref()?.info.clone();
                    // From here on the daemon may have it, at a revision that is not known yet.
                    let node = info.publisher_node.clone();
                    topic.placed = Some(Placed { node, revision: None });
                    topic.is_found = false;
                    Some(info)
                });
                // A topic whose turn it is to be registered is wanted.
                info.map_or_else(DiscoveryRequest::ping, DiscoveryRequest::register).with_ext(ext)
            }
            Question::Withdraw(number) => {
                let placed = self.topics.get(&number).and_then(|topic| topic.placed.clone());
                DiscoveryRequest::unregister(name(number)).with_ext(RequestExt {
                    revision: placed.as_ref().and_then(|placed| placed.revision),
                    publisher_node: placed.map(|placed| placed.node),
                    ..RequestExt::default()
                })
            }
        }
    }

    fn session(&self) -> Session {
        Session { id: self.settings.session_id.clone(), lease_ms: Some(millis(LEASE)) }
    }

    /// Whether topics are to be registered in a session: over ipc only once it has shown that the
    /// daemon does not see who registers.
    fn in_session(&self) -> bool {
        !self.settings.address.starts_with("ipc://") || self.daemon.sees == Some(false)
    }

    fn hold(&self) -> Option<Hold> {
        match self.daemon.is_extended {
            Some(true) if self.in_session() => Some(Hold::Session),
            Some(true) => Some(Hold::Process),
            Some(false) | None => None,
        }
    }

    /// Tells whether the daemon has registered it.
    fn registered(
        &mut self,
        number: u64,
        id: Id,
        before: Option<Placed>,
        reply: Result<Reply>,
        now: Instant,
    ) -> bool {
        let Some(topic) = self.topics.get_mut(&number) else { return false };
        let is_current = topic.wanted.as_ref().is_some_and(|wanted| wanted.id == id);
        let ext = reply.as_ref().ok().and_then(Reply::ext);
        let revision = ext.and_then(|ext| ext.revision);
        let error = reply.and_then(|reply| reply.registered(topic.name.as_str())).err();
        match &error {
            None => {
                topic.pause = FIRST_PAUSE;
                if let Some(placed) = &mut topic.placed {
                    placed.revision = revision;
                }
            }
            Some(Error::AlreadyRegistered { .. }) => topic.placed = None,
            // The daemon has changed nothing.
            Some(Error::Refused { .. }) => topic.placed = before,
            Some(_) => {}
        }
        let is_done = error.is_none();
        match error {
            _ if !is_current => self.hurry(number),
            None => {
                self.schedule.set(number, Due::At(now + REFRESH));
                let is_extended = self.daemon.is_extended == Some(true);
                if is_extended && !self.in_session() && self.daemon.sees.is_none() {
                    self.daemon.shows = Some((number, id));
                } else {
                    self.confirm(number, id);
                }
            }
            Some(error) => {
                let is_taken = matches!(error, Error::AlreadyRegistered { .. });
                let longest = if is_taken { MAX_PAUSE_WHEN_TAKEN } else { MAX_PAUSE };
                self.trouble(number, error);
                self.defer(number, longest, now);
            }
        }
        is_done
    }

    /// Tells that a topic is registered, if that is new.
    fn confirm(&mut self, number: u64, id: Id) {
        let hold = self.hold();
        let wanted = self.topics.get_mut(&number).and_then(|topic| topic.wanted.as_mut());
        let standing = Standing::Registered { hold: hold.clone() };
        if let Some(wanted) = wanted
            && wanted.id == id
            && wanted.standing != standing
        {
            wanted.standing = standing;
            wanted.told = None;
            self.events.push_back((wanted.id, AdvertisementEvent::Registered { hold }));
        }
    }

    /// Tells why a topic is not registered, if that is new.
    fn trouble(&mut self, number: u64, error: Error) {
        let wanted = self.topics.get_mut(&number).and_then(|topic| topic.wanted.as_mut());
        if let Some(wanted) = wanted {
            wanted.standing = Standing::Unsure;
            if wanted.told.as_ref() != Some(&error) {
                wanted.told = Some(error.clone());
                self.events.push_back((wanted.id, AdvertisementEvent::Trouble(error)));
            }
        }
    }

    fn saw(&mut self, number: u64, id: Id, reply: Result<Reply>) {
        if self.daemon.is_extended == Some(true) {
            let entry = reply.ok().and_then(|reply| reply.ext()?.entry.clone());
            // Where it cannot be told, the next REGISTER's turn is the next chance.
            self.daemon.sees = entry.map(|entry| entry.pid.is_some());
        }
        if self.in_session() {
            self.hurry(number);
        } else {
            self.confirm(number, id);
        }
    }

    /// The session has a full lease since `asked_at`, if the daemon knows of leases.
    fn extend_lease(&mut self, ext: Option<&ResponseExt>, asked_at: Instant) {
        self.daemon.renew_at = ext.map(|ext| {
            let lease = ext.lease_ms.map_or(LEASE, Duration::from_millis).min(LEASE);
            asked_at + (lease / 4).max(PACE)
        });
    }

    fn renewed(&mut self, reply: &Result<Reply>, asked_at: Instant) {
        let ext = reply.as_ref().ok().and_then(Reply::ext);
        self.extend_lease(ext, asked_at);
        if ext.and_then(|ext| ext.known) == Some(false) {
            // All that were in it must be registered again, and the first one makes it anew.
            self.daemon.renew_at = None;
            let lost = self.topics.iter().filter(|(_, topic)| topic.is_registered());
            let lost: Vec<_> = lost.map(|(number, _)| *number).collect();
            for number in lost {
                self.hurry(number);
            }
        }
    }

    fn looked(&mut self, number: u64, reply: Result<Reply>, now: Instant) {
        let Some(topic) = self.topics.get_mut(&number) else { return };
        let ext = reply.as_ref().ok().and_then(Reply::ext);
        let revision = ext.and_then(|ext| Some(ext.entry.as_ref()?.revision));
        match reply.and_then(|reply| reply.found(topic.name.as_str())) {
            Ok(info) => {
                topic.placed = topic.placed.take().filter(|placed| placed.is(&info, revision));
                topic.is_found = true;
            }
            Err(Error::NoSuchTopic { .. }) => topic.placed = None,
            Err(error) => topic.refusal = Some(error),
        }
        match topic.refusal.take() {
            Some(error) if topic.placed.is_some() => {
                let gone = topic
                    .leaving
                    .drain(..)
                    .map(|id| (id, AdvertisementEvent::Gone(Err(error.clone()))));
                self.events.extend(gone);
                self.trouble(number, error);
                self.defer(number, MAX_PAUSE, now);
            }
            _ => self.hurry(number),
        }
    }

    fn withdrew(&mut self, number: u64, reply: Result<Reply>) {
        let Some(topic) = self.topics.get_mut(&number) else { return };
        match reply.and_then(|reply| reply.unregistered(topic.name.as_str())) {
            Ok(()) | Err(Error::NoSuchTopic { .. }) => topic.placed = None,
            Err(error) => topic.refusal = Some(error),
        }
        topic.is_found = false;
        self.hurry(number);
    }
}

impl Settings {
    fn no_answer(&self) -> Error {
        Error::NoAnswer { address: self.address.clone(), waited: self.timeout, attempts: 1 }
    }
}

impl Asked {
    /// The topic whose next turn comes with the answer.
    fn topic(&self) -> Option<u64> {
        match self.question {
            Question::Register { topic, .. }
            | Question::HasIt(topic)
            | Question::Withdraw(topic) => Some(topic),
            Question::DoesItSee { .. } | Question::Renew => None,
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
