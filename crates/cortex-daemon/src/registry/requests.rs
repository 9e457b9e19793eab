//! What each request does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cortex_proto::{
    DiscoveryCommand, DiscoveryRequest, DiscoveryStatus, EXTENSION_LEVEL, EncodedResponse,
    RequestExt, RequestedCommand, ResponseExt, TopicInfo, TopicName,
};

use super::directory::access::user;
use super::directory::sessions::{SessionKey, check_session_id, requested_hold, term_of};
use super::directory::topics::Entry;
use super::liveness::pending_registers::{
    Awaits, MAX, MAX_PER_USER, MAX_REGISTER_WAIT, Patience, PendingRegister,
};
use super::log::staging::session_of;
use super::subscriptions::waiters::WakeCondition;
use super::{EventKind, Hold, PeerRequest, Refusal, Registry, Reply, Timestamp};
use crate::peer::{PeerIdentity, Process};

/// Whether a REGISTER that would be refused may wait for a look at who has the topic.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt<'a> {
    First,
    Last,
    /// Nothing can be stored: what would change something is refused.
    WithoutStore(&'a str),
}

#[expect(clippy::large_enum_variant, reason = "nearly all answers are replies")]
pub(super) enum Answer {
    Reply(Outcome),
    /// Not now: see [`PendingRegister`].
    Pending {
        name: TopicName,
        revision: u64,
        awaits: Awaits,
    },
    /// Not now: see [`WakeCondition`].
    Parked {
        condition: WakeCondition,
        wait: Duration,
    },
}

/// What a request has led to.
pub(super) struct Outcome {
    pub(super) status: DiscoveryStatus,
    pub(super) message: String,
    pub(super) content: Content,
    pub(super) ext: ResponseExt,
}

/// What goes along with the message.
pub(super) enum Content {
    Nothing,
    Topic(Arc<[u8]>),
    AllTopics,
    /// No message, but a whole reply that is made already.
    Made(Arc<[u8]>),
}

impl Outcome {
    fn new(status: DiscoveryStatus, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, message, content: Content::Nothing, ext: ResponseExt::default() }
    }

    pub(super) fn ok(message: impl Into<String>) -> Self {
        Self::new(DiscoveryStatus::Ok, message)
    }

    pub(super) fn error(message: impl Into<String>) -> Self {
        Self::new(DiscoveryStatus::Error, message)
    }

    fn not_found(name: &str) -> Self {
        Self::new(DiscoveryStatus::NotFound, format!("Topic {name} not found"))
    }
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        Self::Reply(outcome)
    }
}

impl Registry {
    /// Answers a request, or lets it wait.
    pub(super) fn receive(&mut self, asked: PeerRequest, now: Timestamp) {
        self.counters.unreadable += u64::from(asked.request.is_err());
        if asked.is_req {
            self.cancel_waiters(asked.reply_to.connection);
        }
        let attempt = if self.may_wait(&asked.peer) { Attempt::First } else { Attempt::Last };
        self.attempt(asked, attempt, now.instant + MAX_REGISTER_WAIT, now);
    }

    /// Answers a request of a batch that could not be stored.
    pub(super) fn answer_without_store(
        &mut self,
        asked: PeerRequest,
        problem: &str,
        now: Timestamp,
    ) {
        self.attempt(asked, Attempt::WithoutStore(problem), now.instant, now);
    }

    /// A look at a process was taken; if it is gone, that is known by now.
    pub(super) fn looked(&mut self, process: Process, now: Timestamp) {
        for pending in &mut self.pending_registers {
            let present = self.topics.get(pending.name.as_str());
            let is_orphaned = present.is_some_and(|entry| entry.probes.is_orphan());
            if pending.awaits == Awaits::Look(process) && is_orphaned {
                pending.awaits = Awaits::Probe;
            }
        }
        let is_over = |pending: &PendingRegister| pending.awaits == Awaits::Look(process);
        self.retry_pending_registers(is_over, Patience::Left, now);
    }

    /// Answers the waiting REGISTERs that `is_over` picks, in the order in which they came.
    pub(super) fn retry_pending_registers(
        &mut self,
        is_over: impl Fn(&PendingRegister) -> bool,
        patience: Patience,
        now: Timestamp,
    ) {
        let (over, waiting) =
            std::mem::take(&mut self.pending_registers).into_iter().partition::<Vec<_>, _>(is_over);
        self.pending_registers = waiting;
        for pending in over {
            // The registration that stood against it may have given way to another one.
            let present = self.topics.get(pending.name.as_str()).map(|entry| entry.revision);
            let is_another = present != Some(pending.revision);
            let may_wait = is_another && patience == Patience::Left;
            let attempt = if may_wait { Attempt::First } else { Attempt::Last };
            self.attempt(pending.asked, attempt, pending.end, now);
        }
    }

    fn may_wait(&self, peer: &PeerIdentity) -> bool {
        let of_user =
            self.pending_registers.iter().filter(|pending| pending.asked.peer.uid == peer.uid);
        self.pending_registers.len() < MAX && of_user.count() < MAX_PER_USER
    }

    /// Answers a request, or lets it wait until `end` at most.
    fn attempt(&mut self, asked: PeerRequest, attempt: Attempt<'_>, end: Instant, now: Timestamp) {
        match self.answer(&asked, attempt, now) {
            Answer::Reply(outcome) => self.reply(asked, outcome, now),
            Answer::Pending { name, revision, awaits } => {
                match awaits {
                    Awaits::Look(process) => self.effects.check.push(process),
                    Awaits::Probe => {
                        self.reschedule(&name, |entry| entry.probes.hurry(now.instant));
                        self.begin_probes(now);
                    }
                }
                self.pending_registers.push(PendingRegister { asked, name, revision, end, awaits });
            }
            Answer::Parked { condition, wait } => self.park(asked, condition, wait, now),
        }
    }

    fn reply(&mut self, asked: PeerRequest, outcome: Outcome, now: Timestamp) {
        let wants_ext = match &asked.request {
            Ok(request) => request.wants_ext(),
            Err(unreadable) => unreadable.asks_for_ext,
        };
        let status = outcome.status;
        let body = self.body(outcome, wants_ext, now);
        self.effects.replies.push(Reply { to: asked.reply_to.clone(), status, body });
        self.answered.push(asked);
    }

    /// The bytes of a reply.
    pub(super) fn body(&mut self, outcome: Outcome, wants_ext: bool, now: Timestamp) -> Arc<[u8]> {
        let mut ext = wants_ext.then_some(outcome.ext);
        let (status, message) = (outcome.status, &*outcome.message);
        let topic_info = match outcome.content {
            Content::Nothing => None,
            Content::Topic(packed) => Some(packed),
            Content::AllTopics => {
                let Some(ext) = &mut ext else { return self.plain_list() };
                let entries = self.topics.iter().map(|entry| entry.describe(now.unix_ms));
                ext.entries = Some(entries.collect());
                let body = pack_list(&self.topics, Some(ext));
                return self.made(body);
            }
            Content::Made(body) => return body,
        };
        let (topic_info, ext) = (topic_info.as_deref(), ext.as_ref());
        self.made(EncodedResponse { status, message, topic_info, topics: &[], ext }.to_bytes())
    }

    /// A body that was not there before: it counts for the batch's work.
    pub(super) fn made(&mut self, body: Vec<u8>) -> Arc<[u8]> {
        self.cost += body.len();
        body.into()
    }

    /// The reply to a LIST without extension: made once after a change.
    fn plain_list(&mut self) -> Arc<[u8]> {
        if let Some(body) = &self.list_reply {
            return Arc::clone(body);
        }
        let body = pack_list(&self.topics, None);
        let body = self.made(body);
        self.list_reply = Some(Arc::clone(&body));
        body
    }

    fn answer(&mut self, asked: &PeerRequest, attempt: Attempt<'_>, now: Timestamp) -> Answer {
        let peer = &asked.peer;
        let request = match &asked.request {
            Ok(request) => request,
            Err(unreadable) => return unparsable(&unreadable.problem).into(),
        };
        let command = match request.command {
            RequestedCommand::Known(command) => command,
            RequestedCommand::Unknown(number) => {
                return unparsable(&format!("{number} is not a known command")).into();
            }
        };
        match command {
            DiscoveryCommand::RegisterTopic => self.register(peer, request, attempt, now),
            DiscoveryCommand::UnregisterTopic => self.unregister(peer, request, attempt).into(),
            DiscoveryCommand::LookupTopic => self.lookup(request, now).into(),
            DiscoveryCommand::ListTopics => {
                Outcome { content: Content::AllTopics, ..Outcome::ok("") }.into()
            }
            DiscoveryCommand::Ping => self.ping(now).into(),
            DiscoveryCommand::Renew => self.renew(peer, request.ext.as_ref(), now).into(),
            DiscoveryCommand::WaitTopic => self.wait(request, now),
            DiscoveryCommand::WatchTopics => self.watch(request),
            DiscoveryCommand::Stats => self.stats(now).into(),
            DiscoveryCommand::Shutdown => self.shutdown(peer).into(),
        }
    }

    fn ping(&self, now: Timestamp) -> Outcome {
        let ext = ResponseExt {
            level: Some(EXTENSION_LEVEL),
            server: Some(self.settings.server.clone()),
            epoch: Some(self.epoch),
            revision: Some(self.revision),
            pid: Some(self.settings.pid.into()),
            uptime_ms: Some(self.uptime_ms(now)),
            topics: Some(self.topics.len() as u64),
            ..ResponseExt::default()
        };
        Outcome { ext, ..Outcome::ok("pong") }
    }

    pub(super) fn uptime_ms(&self, now: Timestamp) -> u64 {
        let uptime = now.instant.saturating_duration_since(self.started).as_millis();
        u64::try_from(uptime).unwrap_or(u64::MAX)
    }

    fn register(
        &mut self,
        peer: &PeerIdentity,
        request: &DiscoveryRequest,
        attempt: Attempt<'_>,
        now: Timestamp,
    ) -> Answer {
        let Some(info) = &request.topic_info else {
            return Outcome::error("Missing topic_info in register request").into();
        };
        let hold = match self.check_registration(info, request.ext.as_ref()) {
            Ok(hold) => hold,
            Err(problem) => return not_registered(info, &problem).into(),
        };
        if let Some(existing) = self.topics.get(info.name.as_str()) {
            let is_other = existing.info.publisher_node != info.publisher_node;
            if is_other || !self.settings.access.may_change(peer, existing) {
                if attempt == Attempt::First
                    && let Some(awaits) = doubt(existing)
                {
                    let (name, revision) = (info.name.clone(), existing.revision);
                    return Answer::Pending { name, revision, awaits };
                }
                // It may be about to go, which cannot be stored either.
                if let Attempt::WithoutStore(problem) = attempt
                    && existing.probes.is_orphan()
                {
                    return not_registered(info, problem).into();
                }
                return self.refuse_registration(peer, info, is_other).into();
            }
            if existing.owner == *peer && existing.hold == hold && *existing.info == *info {
                if let Some((key, _)) = session_of(existing) {
                    self.sessions.renew(&key, now.instant);
                }
                return self.registered(info).into();
            }
        }
        if let Attempt::WithoutStore(problem) = attempt {
            // It was heard all the same: its session lives.
            if let Hold::Session { id, .. } = hold {
                self.sessions.renew(&SessionKey { uid: peer.uid, id }, now.instant);
            }
            return not_registered(info, problem).into();
        }
        self.enter(peer, info, hold, now).into()
    }

    /// Checks what needs no look at the topics of others.
    fn check_registration(
        &mut self,
        info: &TopicInfo,
        ext: Option<&RequestExt>,
    ) -> Result<Hold, String> {
        let most = self.settings.limits.field_bytes;
        let fields = [
            ("address", &info.address),
            ("message_type", &info.message_type),
            ("publisher_node", &info.publisher_node),
        ];
        if let Some((field, value)) = fields.into_iter().find(|(_, value)| value.len() > most) {
            self.counters.over_limit += 1;
            let length = value.len();
            return Err(format!("its {field} has {length} bytes, at most {most} are allowed"));
        }
        let most = self.settings.limits.topics;
        if self.topics.len() >= most && self.topics.get(info.name.as_str()).is_none() {
            self.counters.over_limit += 1;
            return Err(format!("this daemon holds {most} topics and takes no more"));
        }
        requested_hold(ext)
    }

    fn refuse_registration(
        &mut self,
        peer: &PeerIdentity,
        info: &TopicInfo,
        is_other: bool,
    ) -> Outcome {
        let Some(existing) = self.topics.get(info.name.as_str()) else {
            return Outcome::not_found(info.name.as_str());
        };
        if is_other {
            let node = &existing.info.publisher_node;
            let message = format!("Topic {} already registered by {node}", info.name);
            return Outcome::new(DiscoveryStatus::AlreadyExists, message);
        }
        let message = format!(
            "Topic {} is not registered: it belongs to {}, and you are {}",
            info.name,
            user(existing.owner.uid),
            user(peer.uid)
        );
        self.refuse_access(peer, message)
    }

    fn refuse_access(&mut self, peer: &PeerIdentity, message: String) -> Outcome {
        self.counters.no_access += 1;
        self.effects.refused.push(Refusal { peer: *peer, message: message.clone() });
        Outcome::error(message)
    }

    /// What a REGISTER is told when all is as it wants.
    fn registered(&self, info: &TopicInfo) -> Outcome {
        let existing = self.topics.get(info.name.as_str());
        let ext = existing.map(|entry| self.registration_ext(entry)).unwrap_or_default();
        Outcome { ext, ..Outcome::ok(format!("Registered topic: {}", info.name)) }
    }

    /// What a REGISTER is told of the entry.
    fn registration_ext(&self, entry: &Entry) -> ResponseExt {
        let lease_ms = session_of(entry).and_then(|(key, _)| self.sessions.term_of(&key));
        ResponseExt { revision: Some(entry.revision), lease_ms, ..ResponseExt::default() }
    }

    fn enter(
        &mut self,
        peer: &PeerIdentity,
        info: &TopicInfo,
        hold: Hold,
        now: Timestamp,
    ) -> Outcome {
        let existing = self.topics.get(info.name.as_str());
        let order = existing.map_or_else(|| self.topics.next_order(), |entry| entry.order);
        // The endpoint's past counts only as long as it is the same endpoint.
        let found_alive =
            existing.is_some_and(|entry| entry.found_alive && entry.info.address == info.address);
        let entry = Entry {
            info: Arc::new(info.clone()),
            packed: info.to_bytes().into(),
            order,
            revision: 0,
            changed_ms: now.unix_ms,
            owner: *peer,
            probes: self.probe_schedule_for(&hold, peer.process, now.instant),
            hold,
            found_alive,
        };
        self.stage_entry(entry, now.instant);
        self.registered(info)
    }

    fn unregister(
        &mut self,
        peer: &PeerIdentity,
        request: &DiscoveryRequest,
        attempt: Attempt<'_>,
    ) -> Outcome {
        let in_info = || request.topic_info.as_ref().map(|info| info.name.as_str());
        let Some(name) = non_empty(request.topic_name.as_deref()).or_else(in_info) else {
            return Outcome::error("Missing topic name in unregister request");
        };
        let Some(entry) = self.topics.get(name) else {
            return Outcome::not_found(name);
        };
        let is_refused = |problem: String| format!("Topic {name} is not unregistered: {problem}");
        if let Some(problem) = guard_mismatch(entry, request.ext.as_ref()) {
            return Outcome::error(is_refused(problem));
        }
        if !self.settings.access.may_change(peer, entry) {
            let (owner, asker) = (user(entry.owner.uid), user(peer.uid));
            let message = is_refused(format!("it belongs to {owner}, and you are {asker}"));
            return self.refuse_access(peer, message);
        }
        if let Attempt::WithoutStore(problem) = attempt {
            return Outcome::error(is_refused(problem.to_owned()));
        }
        if let Some(detached) = self.detach(name) {
            self.stage_removal(detached, EventKind::Unregistered);
        }
        Outcome::ok(format!("Unregistered topic: {name}"))
    }

    fn lookup(&self, request: &DiscoveryRequest, now: Timestamp) -> Outcome {
        let Some(name) = non_empty(request.topic_name.as_deref()) else {
            return Outcome::error("Missing topic_name in lookup request");
        };
        self.find(name, now)
    }

    /// What there is to say of a topic.
    pub(super) fn find(&self, name: &str, now: Timestamp) -> Outcome {
        let Some(entry) = self.topics.get(name) else {
            return Outcome::not_found(name);
        };
        let mut found = Outcome::ok("");
        found.content = Content::Topic(Arc::clone(&entry.packed));
        found.ext.entry = Some(entry.describe(now.unix_ms));
        found
    }

    fn renew(&mut self, peer: &PeerIdentity, ext: Option<&RequestExt>, now: Timestamp) -> Outcome {
        let Some(session) = ext.and_then(|ext| ext.session.as_ref()) else {
            return Outcome::error("Missing ext.session in renew request");
        };
        if let Err(problem) = check_session_id(&session.id) {
            return Outcome::error(format!("The session is not renewed: {problem}"));
        }
        let key = SessionKey { uid: peer.uid, id: session.id.clone() };
        let term = self.sessions.renew(&key, now.instant);
        let ext = ResponseExt {
            lease_ms: Some(term.unwrap_or_else(|| term_of(session))),
            known: Some(term.is_some()),
            ..ResponseExt::default()
        };
        Outcome { ext, ..Outcome::ok("") }
    }

    fn shutdown(&mut self, peer: &PeerIdentity) -> Outcome {
        if self.settings.access.may_stop(peer) {
            self.effects.stop = true;
            return Outcome::ok("Shutting down");
        }
        let message = format!(
            "The daemon is not shut down: only root and the daemon's own user may do that, and \
             you are {}",
            user(peer.uid)
        );
        self.refuse_access(peer, message)
    }
}

fn not_registered(info: &TopicInfo, problem: &str) -> Outcome {
    Outcome::error(format!("Topic {} is not registered: {problem}", info.name))
}

/// What could show that who has a topic is gone.
fn doubt(existing: &Entry) -> Option<Awaits> {
    match existing.living_process() {
        Some(process) => Some(Awaits::Look(process)),
        None => existing.probes.is_orphan().then_some(Awaits::Probe),
    }
}

fn unparsable(problem: &str) -> Outcome {
    Outcome::error(format!("Failed to parse request: {problem}"))
}

/// What of an UNREGISTER's conditions does not hold.
fn guard_mismatch(entry: &Entry, ext: Option<&RequestExt>) -> Option<String> {
    let ext = ext?;
    if let Some(node) = &ext.publisher_node
        && *node != entry.info.publisher_node
    {
        let present = &entry.info.publisher_node;
        return Some(format!("it is registered by {present}, not by {node}"));
    }
    if let Some(revision) = ext.revision
        && revision != entry.revision
    {
        return Some(format!("it is at revision {}, not at {revision}", entry.revision));
    }
    None
}

fn pack_list(topics: &super::Topics, ext: Option<&ResponseExt>) -> Vec<u8> {
    let packed: Vec<_> = topics.iter().map(|entry| &*entry.packed).collect();
    let status = DiscoveryStatus::Ok;
    EncodedResponse { status, message: "", topic_info: None, topics: &packed, ext }.to_bytes()
}

/// The reference takes an empty name for none.
pub(super) fn non_empty(name: Option<&str>) -> Option<&str> {
    name.filter(|name| !name.is_empty())
}
