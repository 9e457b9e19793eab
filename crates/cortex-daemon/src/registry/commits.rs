//! Commits: how changes come to count, and what happens when the store cannot keep them.

use std::sync::Arc;
use std::time::Instant;

use cortex_proto::{DiscoveryStatus, Since, TopicName};

use super::Registry;
use super::answer::{Answer, ReplyContext};
use super::batch::{Batch, Decided};
use super::directory::topics::Entry;
use super::effect::Effects;
use super::input::{PeerRequest, Timestamp};
use super::log::record::{Snapshot, Write};
use super::registrations::Registrations;
use super::reply::ReplyBody;
use super::requests;
use super::requests::decision::Decision;
use super::requests::register::OnDoubt;
use super::subscriptions::BatchEnd;
use super::subscriptions::replies::pack_no_events;
use super::subscriptions::waiters::{Waiter, WakeCondition};
use super::view::View;

impl Registry {
    /// Begins to commit all changes so far: the store must keep these. [`commit`](Self::commit) or
    /// [`rollback`](Self::rollback) follows. `None` when nothing has changed, or when a commit is
    /// under way already: then the changes wait for its end.
    pub fn begin_commit(&mut self, now: Timestamp) -> Option<Vec<Write>> {
        if self.committing.is_some() {
            return None;
        }
        let batch = std::mem::take(&mut self.batch);
        if !self.registrations.log.has_writes() {
            self.answer(batch, now);
            return None;
        }
        self.committing = Some(batch);
        Some(self.registrations.begin_commit())
    }

    /// The store has what [`begin_commit`](Self::begin_commit) handed out.
    pub fn commit(&mut self, now: Timestamp) {
        let Some(batch) = self.committing.take() else { return };
        let before = self.registrations.log.position(View::Committed).revision;
        let changes = self.registrations.commit();
        for change in &changes {
            self.counters.count(change.kind);
        }
        let topics: Vec<_> = changes.iter().map(|change| change.info.name.clone()).collect();
        self.outbox.effects.changed.extend(changes);
        // First: what is parked with this commit has seen it.
        self.wake(BatchEnd::Stored, &topics, before, now);
        self.answer(batch, now);
    }

    /// The store cannot keep what [`begin_commit`](Self::begin_commit) handed out: takes all changes
    /// back that are not committed, also later ones, which build on these. Requests that change
    /// something get ERROR with `problem`; the others are answered from the committed state.
    /// Evictions are tried again later.
    pub fn rollback(&mut self, problem: &str, now: Timestamp) {
        self.counters.not_stored += 1;
        let topics = self.registrations.rollback(now.instant);
        self.cache.clear();
        self.due_evictions.not_stored(now.instant);
        // The next changes get the revisions of these again: no probe may be for one of those.
        let committed = self.registrations.log.position(View::Committed).revision;
        self.outbox.forget_uncommitted_probes(committed);
        let next = std::mem::take(&mut self.batch);
        for mut batch in self.committing.take().into_iter().chain([next]) {
            for decided in batch.take_decided() {
                self.answer_unstored(decided, &batch, problem, now);
            }
        }
        self.wake(BatchEnd::RolledBack, &topics, committed, now);
    }

    /// Whether answers or changes wait for a commit.
    #[must_use]
    pub fn is_committing(&self) -> bool {
        self.committing.is_some() || !self.batch.is_empty() || self.registrations.log.has_writes()
    }

    /// Ends a round: returns what the daemon must do.
    pub fn take_effects(&mut self, now: Timestamp) -> Effects {
        self.wake_due(now);
        let Registrations { directory, log, .. } = &mut self.registrations;
        let watches = directory.take_watch_changes();
        let mut effects = self.outbox.take(log.position(View::Committed).revision);
        effects.watch = watches.watch;
        effects.unwatch = watches.unwatch;
        effects
    }

    /// While no commit is under way and no change waits for one: everything that a store must keep
    /// that is empty, for this epoch.
    #[must_use]
    pub fn snapshot(&self, epoch: u64) -> Snapshot {
        let Registrations { directory, log, .. } = &self.registrations;
        let records = directory.iter().map(Entry::record).collect();
        let revision = log.position(View::Committed).revision;
        Snapshot { epoch, revision, records, history: Vec::new() }
    }

    /// While no commit is under way: the history is lost, and a new epoch begins. Watches are
    /// answered with the next effects.
    pub fn reset_history(&mut self, epoch: u64) {
        self.subscriptions.lose_history(self.registrations.log.position(View::Committed).epoch);
        self.registrations.log.reset_history(epoch);
    }

    fn answer(&mut self, mut batch: Batch, now: Timestamp) {
        for Decided { request, answer, since, is_given_up } in batch.take_decided() {
            let is_over = is_given_up || batch.is_disconnected(request.reply_to.connection);
            let answer = match answer {
                // A CANCEL also ends the requests before it that are parked by now.
                Some(Answer::Cancelled { .. }) | None => {
                    match self.decision(&request, View::Committed, OnDoubt::Refuse, now) {
                        Decision::Answer(again) => again.added_to(answer.as_ref()),
                        Decision::Parked { condition, wait } => {
                            self.park_unless(is_over, request, condition, since + wait);
                            continue;
                        }
                        Decision::Pending { .. } => continue,
                    }
                }
                Some(answer) => answer,
            };
            self.reply_unless(is_given_up, request, answer, now);
        }
    }

    /// Answers a request whose batch was rolled back. The registry decides about the request again,
    /// and refuses a change. A REGISTER that was accepted because a name had become free is refused
    /// for the store's sake, not for the topic's that has the name again.
    fn answer_unstored(
        &mut self,
        Decided { request, answer: former, since, is_given_up }: Decided,
        batch: &Batch,
        problem: &str,
        now: Timestamp,
    ) {
        let is_over = is_given_up || batch.is_disconnected(request.reply_to.connection);
        let answer = match self.decision(&request, View::Latest, OnDoubt::Refuse, now) {
            Decision::Parked { condition, wait } => {
                return self.park_unless(is_over, request, condition, since + wait);
            }
            Decision::Answer(answer) => Some(answer).filter(|answer| {
                let is_change = self.registrations.log.has_writes();
                let was_registered = matches!(former, Some(Answer::Registered { .. }));
                !(is_change || was_registered && answer.is_refusal())
            }),
            Decision::Pending { .. } => None,
        };
        self.registrations.rollback(now.instant);
        let not_stored = || requests::not_stored(&request, problem);
        let answer = answer.map_or_else(not_stored, |answer| answer.added_to(former.as_ref()));
        self.reply_unless(is_given_up, request, answer, now);
    }

    /// Parks a request whose batch has ended, unless its peer waits for it no more.
    fn park_unless(
        &mut self,
        is_over: bool,
        request: PeerRequest,
        condition: WakeCondition,
        end: Instant,
    ) {
        if is_over {
            self.outbox.effects.cancelled.push(request.reply_to.connection);
        } else {
            self.park(request, condition, end);
        }
    }

    /// Answers a request whose batch has ended. A peer that has given it up gets no reply, but the
    /// rest that follows from the answer counts.
    fn reply_unless(
        &mut self,
        is_given_up: bool,
        request: PeerRequest,
        answer: Answer,
        now: Timestamp,
    ) {
        if is_given_up {
            self.outbox.note(&request, &answer);
            self.outbox.effects.cancelled.push(request.reply_to.connection);
        } else {
            self.reply(request, answer, now);
        }
    }

    /// Answers the parked requests whose condition is met at the end of a commit. `before` is the
    /// revision before it.
    fn wake(&mut self, end: BatchEnd, topics: &[TopicName], before: u64, now: Timestamp) {
        let directory = &self.registrations.directory;
        let is_registered =
            |name: &TopicName| directory.find(name.as_str(), View::Committed).is_some();
        let woken = self.subscriptions.take_changed(end, topics, is_registered);
        self.answer_woken(woken, before, now);
    }

    /// Answers the parked requests that do not wait for a change any more.
    fn wake_due(&mut self, now: Timestamp) {
        let position = self.registrations.log.position(View::Committed);
        if let Some((epoch, watches)) = self.subscriptions.take_lost() {
            // Their next request is one of another epoch, and gets a snapshot.
            let body = pack_no_events(Since { epoch, ..position });
            for Waiter { to, .. } in watches {
                let body = ReplyBody::Packed(Arc::clone(&body));
                self.outbox.push_reply(to, DiscoveryStatus::Ok, body);
            }
        }
        let due = self.subscriptions.take_due(now.instant);
        self.answer_woken(due, position.revision, now);
    }

    fn answer_woken(&mut self, woken: Vec<Waiter>, before: u64, now: Timestamp) {
        let Registrations { directory, log, .. } = &self.registrations;
        let context = ReplyContext { settings: &self.settings, log, started: self.started, now };
        self.outbox.answer_woken(woken, before, directory, &context, &mut self.cache);
    }
}
