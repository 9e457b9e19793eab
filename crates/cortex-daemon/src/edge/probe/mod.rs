//! Probes: connection attempts that find out whether a ZeroMQ socket listens at an endpoint.
//!
//! A probe connects, waits for the first byte and closes. It sends nothing: a ZeroMQ socket sends
//! its signature to every peer that connects. If a process is stopped, or if a forked child keeps
//! the socket without serving it, the kernel accepts connections and the endpoint stays silent.
//!
//! | where | runs in |
//! |---|---|
//! | TCP at an IP address, abstract Unix sockets | the daemon, without blocking (`attempt.rs`) |
//! | Unix sockets with a path | a helper process, which may hang (`helper/`) |
//! | TCP at a host name | a helper resolves the name, then as an IP address |
//!
//! All requests for a target share one probe. Each has its own patience: when that is over, the
//! endpoint is silent for this request, and the probe goes on for the others.

mod address;
mod attempt;
mod helper;
mod lane;
mod limits;
mod listening;
mod outcome;
mod quarantine;
mod running;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use mio::{Registry as PollRegistry, Token};

pub(crate) use self::address::SharedFolders;
use self::address::Target;
use self::attempt::{ConnectionAttempt, Endpoint, Progress};
pub use self::helper::serve_probe_helper;
use self::helper::{Helper, Launch, Program, Report};
use self::lane::Lane;
use self::limits::{MAX_IN_HELPER, MAX_PATIENCE, MAX_ROUND_STARTS};
use self::outcome::ProbeId;
pub(crate) use self::outcome::{ProbeAnswer, ProbeOutcome};
use self::quarantine::Quarantine;
use self::running::{Probe, ProbeLocation, Stage, WaitingRequest};
use super::processes::identify_living;
use super::tokens::Tokens;
use crate::peer::EndpointListener;
use crate::registry::{ProbeRequest, ProbeResult, UnknownReason};

#[cfg(test)]
mod tests;

/// The probes under way, those that wait, and the answers.
#[derive(Debug)]
pub(crate) struct Probes {
    poll_registry: PollRegistry,
    tokens: Tokens,
    folders: SharedFolders,
    in_daemon: Lane,
    for_paths: Lane,
    for_names: Lane,
    helpers: Helpers,
    by_id: HashMap<ProbeId, Probe>,
    /// The newest probe of each target.
    by_target: HashMap<Target, ProbeId>,
    by_token: HashMap<Token, ProbeId>,
    next_id: u64,
    /// When each running probe needs [`take_answers`](Self::take_answers).
    agenda: BTreeSet<(Instant, ProbeId)>,
    quarantine: Quarantine,
    /// The tokens that have an event.
    ready: Vec<Token>,
    answers: Vec<ProbeAnswer>,
}

/// A helper for each kind of probe that may hang.
#[derive(Debug)]
struct Helpers {
    paths: Helper,
    names: Helper,
}

impl Helpers {
    fn at(&mut self, location: ProbeLocation) -> &mut Helper {
        match location {
            ProbeLocation::NameHelper => &mut self.names,
            ProbeLocation::PathHelper | ProbeLocation::Daemon => &mut self.paths,
        }
    }
}

impl Probes {
    /// Uses at most `limit` sockets of the daemon at once, at least one, and two for helpers.
    /// `helper` is the program that runs as a helper. `tokens` needs a token for each possible
    /// descriptor number; the result of a probe with a higher number is unknown.
    pub(crate) fn new(
        poll_registry: PollRegistry,
        tokens: Range<usize>,
        limit: usize,
        folders: SharedFolders,
        helper: Option<&Path>,
    ) -> Self {
        let launch = || helper.map(|path| Box::new(Program(path.to_owned())) as Box<dyn Launch>);
        let (paths, names) = (launch(), launch());
        Self::with_helpers(poll_registry, tokens, limit, folders, [paths, names])
    }

    fn with_helpers(
        poll_registry: PollRegistry,
        tokens: Range<usize>,
        limit: usize,
        folders: SharedFolders,
        [paths, names]: [Option<Box<dyn Launch>>; 2],
    ) -> Self {
        Self {
            poll_registry,
            tokens: Tokens::new(tokens),
            folders,
            in_daemon: Lane::new(limit, MAX_PATIENCE),
            for_paths: Lane::new(MAX_IN_HELPER, MAX_PATIENCE),
            for_names: Lane::new(MAX_IN_HELPER, MAX_PATIENCE),
            helpers: Helpers {
                paths: Helper::new("paths", paths),
                names: Helper::new("host names", names),
            },
            by_id: HashMap::new(),
            by_target: HashMap::new(),
            by_token: HashMap::new(),
            next_id: 0,
            agenda: BTreeSet::new(),
            quarantine: Quarantine::default(),
            ready: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// Requests a probe of an endpoint. Each call leads to one answer.
    pub(crate) fn start(&mut self, request: ProbeRequest, now: Instant) {
        let ProbeRequest { name, revision, address, owner, patience, .. } = request;
        let ProbeRequest { needs_new_connection, listener, .. } = request;
        let target = match Target::of(&address, &owner) {
            Ok(target) => target,
            Err(reason) => {
                let outcome = ProbeResult::Unknown(reason).into();
                return self.answers.push(ProbeAnswer { name, revision, outcome });
            }
        };
        // Elsewhere the owner may see another file system than the daemon. Then only a path where
        // its listener was once seen can be found dead.
        let judges_absence = match &target {
            Target::Path(path) => listener.is_some() || self.folders.contain(path),
            Target::RelativePath(..)
            | Target::Tcp(_)
            | Target::Abstract(_)
            | Target::HostName { .. } => true,
        };
        let patience = patience.min(MAX_PATIENCE);
        let mut request =
            WaitingRequest { name, revision, patience, deadline: None, judges_absence };
        if let Some(&id) = self.by_target.get(&target)
            && let Some(probe) = self.by_id.get_mut(&id)
            && !(needs_new_connection && probe.has_begun())
        {
            let before = probe.patience;
            probe.patience = before.min(patience);
            if probe.is_waiting() {
                let (location, patience) = (probe.location(), probe.patience);
                probe.requests.push(request);
                let lane = self.lane(location);
                lane.remove(id, before);
                lane.push(id, patience);
            } else {
                request.deadline = Some(now + patience);
                probe.requests.push(request);
                self.update_agenda(id);
            }
            return;
        }
        let id = ProbeId(self.next_id);
        self.next_id += 1;
        let probe = Probe::new(target.clone(), request);
        self.lane(probe.location()).push(id, patience);
        self.by_target.insert(target, id);
        self.by_id.insert(id, probe);
    }

    /// Notes that a probe or a helper has an event. A late event does no harm.
    pub(crate) fn mark(&mut self, token: Token) {
        self.ready.push(token);
    }

    /// Advances all probes as far as possible without waiting, and appends their answers.
    pub(crate) fn take_answers(&mut self, now: Instant, out: &mut Vec<ProbeAnswer>) {
        for token in std::mem::take(&mut self.ready) {
            if self.helpers.paths.token() == Some(token) {
                self.receive(ProbeLocation::PathHelper, now);
            } else if self.helpers.names.token() == Some(token) {
                self.receive(ProbeLocation::NameHelper, now);
            } else if let Some(&id) = self.by_token.get(&token) {
                self.advance(id);
            }
        }
        self.expire(now);
        for location in
            [ProbeLocation::Daemon, ProbeLocation::PathHelper, ProbeLocation::NameHelper]
        {
            for _ in 0..MAX_ROUND_STARTS {
                let Some(id) = self.lane(location).pop() else { break };
                self.run(id, location, now);
            }
        }
        out.append(&mut self.answers);
    }

    /// Whether [`take_answers`](Self::take_answers) has work without another event.
    pub(crate) fn has_answers(&self) -> bool {
        let lanes = [&self.in_daemon, &self.for_paths, &self.for_names];
        lanes.into_iter().any(Lane::can_start) || !self.answers.is_empty() || !self.ready.is_empty()
    }

    /// When [`take_answers`](Self::take_answers) must run without an event.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.agenda.first().map(|(when, _)| *when)
    }

    /// Whether the token is one of a probe.
    pub(crate) fn owns(&self, token: Token) -> bool {
        self.tokens.owns(token)
    }

    fn lane(&mut self, location: ProbeLocation) -> &mut Lane {
        match location {
            ProbeLocation::Daemon => &mut self.in_daemon,
            ProbeLocation::PathHelper => &mut self.for_paths,
            ProbeLocation::NameHelper => &mut self.for_names,
        }
    }

    /// Runs a probe that has got a place.
    fn run(&mut self, id: ProbeId, location: ProbeLocation, now: Instant) {
        let Some(probe) = self.by_id.get_mut(&id) else { return };
        probe.begin(now);
        let Some(task) = probe.task() else {
            let endpoint = probe.endpoint();
            return self.attempt(id, endpoint);
        };
        let is_quarantined = self.quarantine.contains(&probe.target, now);
        probe.stage = Stage::InHelper { since: now, listener: None, is_connected: false };
        let helper = self.helpers.at(location);
        let poll = (&self.poll_registry, &self.tokens);
        if is_quarantined || helper.send(id, &task, now, poll).is_err() {
            return self.cannot_run(id);
        }
        self.update_agenda(id);
    }

    /// Ends a probe that needs a helper, where there is none. The daemon's own host name still
    /// means loopback.
    fn cannot_run(&mut self, id: ProbeId) {
        if self.by_id.get(&id).is_some_and(|probe| probe.target.is_own_name()) {
            return self.resolved(id, &[]);
        }
        self.finish(id, ProbeResult::Unknown(UnknownReason::Failure).into());
    }

    fn attempt(&mut self, id: ProbeId, endpoint: Endpoint) {
        match ConnectionAttempt::start(endpoint) {
            Err(outcome) => self.finish(id, outcome),
            Ok(attempt) => {
                let Some(probe) = self.by_id.get_mut(&id) else { return };
                probe.stage = Stage::InDaemon { attempt, token: None };
                self.advance(id);
                self.update_agenda(id);
            }
        }
    }

    /// Reads from the probe's connection, and adds new ones to the poll, which also reports bytes
    /// that have arrived before.
    fn advance(&mut self, id: ProbeId) {
        while let Some(Probe { stage: Stage::InDaemon { attempt, token, .. }, .. }) =
            self.by_id.get_mut(&id)
        {
            match attempt.poll() {
                Progress::Pending if token.is_some() => return,
                Progress::Pending => {
                    match attempt.register(&self.poll_registry, &self.tokens) {
                        Ok(new) => {
                            *token = Some(new);
                            self.by_token.insert(new, id);
                        }
                        Err(error) => {
                            tracing::debug!(%error, "cannot watch a probe");
                            self.finish(id, ProbeResult::Unknown(UnknownReason::Failure).into());
                        }
                    }
                    return;
                }
                Progress::Reconnected => {
                    if let Some(old) = token.take() {
                        self.by_token.remove(&old);
                    }
                }
                Progress::Judged(outcome) => return self.finish(id, outcome),
            }
        }
    }

    fn receive(&mut self, location: ProbeLocation, now: Instant) {
        let mut reports = Vec::new();
        let state = self.helpers.at(location).receive(&mut reports, now);
        for (id, report) in reports {
            match report {
                Report::Connected { pid } => {
                    let Some(probe) = self.by_id.get_mut(&id) else { continue };
                    let found = if pid == 0 { None } else { identify_living(pid) };
                    probe.connected(found.map(EndpointListener::Process));
                    self.update_agenda(id);
                }
                Report::Judged(result) => {
                    let Some(probe) = self.by_id.get_mut(&id) else { continue };
                    if probe.must_look_again(result, now) {
                        probe.look_again();
                        self.queue_again(id, location);
                        continue;
                    }
                    let outcome = ProbeOutcome::new(result, || probe.listener());
                    self.finish(id, outcome);
                }
                Report::Resolved(addresses) => self.resolved(id, &addresses),
            }
        }
        if state.is_err() {
            self.replace_helper(location, now);
        }
    }

    /// Goes on with the addresses of a host name, in the daemon's process.
    fn resolved(&mut self, id: ProbeId, found: &[IpAddr]) {
        let Some(probe) = self.by_id.get_mut(&id) else { return };
        match probe.target.resolved(found) {
            Err(reason) => self.finish(id, ProbeResult::Unknown(reason).into()),
            // The requests have lost their patience meanwhile.
            Ok(_) if probe.requests.is_empty() => {
                self.finish(id, ProbeResult::Unknown(UnknownReason::HostName).into());
            }
            Ok(addresses) => {
                probe.addresses = Some(addresses);
                probe.stage = Stage::Waiting;
                let patience = probe.patience;
                self.for_names.finish();
                self.in_daemon.push(id, patience);
                self.update_agenda(id);
            }
        }
    }

    /// Answers the requests whose patience is over. Reads once more before, because the loop may be
    /// late too.
    fn expire(&mut self, now: Instant) {
        while let Some(&(when, id)) = self.agenda.first()
            && when <= now
        {
            self.advance(id);
            let Some(probe) = self.by_id.get_mut(&id) else {
                self.agenda.remove(&(when, id));
                continue;
            };
            let outcome = probe.outcome_so_far();
            if probe.has_ended(now) {
                self.finish(id, outcome);
                continue;
            }
            self.answers.extend(probe.answer_due(outcome, now));
            if probe.hangs(now) {
                let location = probe.location();
                self.replace_helper(location, now);
                continue;
            }
            self.update_agenda(id);
        }
    }

    /// Gives a helper up. The probes that hang are over, and the others begin again, once.
    fn replace_helper(&mut self, location: ProbeLocation, now: Instant) {
        let last_report = self.helpers.at(location).last_report();
        self.helpers.at(location).give_up(now);
        let in_helper = |(id, probe): (&ProbeId, &Probe)| {
            (probe.location() == location && probe.is_in_helper()).then_some(*id)
        };
        let mut ids: Vec<_> = self.by_id.iter().filter_map(in_helper).collect();
        ids.sort_unstable();
        for id in ids {
            let Some(probe) = self.by_id.get_mut(&id) else { continue };
            if probe.hangs(now) {
                // If the helper has answered others meanwhile, it hangs there.
                let is_certain = probe.since() < last_report;
                self.quarantine.add(probe.target.clone(), is_certain, now);
                self.cannot_run(id);
            } else if probe.requests.is_empty() || std::mem::replace(&mut probe.is_retry, true) {
                self.cannot_run(id);
            } else {
                probe.begin_again();
                self.queue_again(id, location);
            }
        }
    }

    /// Moves a probe from the running to the waiting ones.
    fn queue_again(&mut self, id: ProbeId, location: ProbeLocation) {
        let Some(probe) = self.by_id.get(&id) else { return };
        let patience = probe.patience;
        let lane = self.lane(location);
        lane.finish();
        lane.push(id, patience);
        self.update_agenda(id);
    }

    fn update_agenda(&mut self, id: ProbeId) {
        let Some(probe) = self.by_id.get_mut(&id) else { return };
        let wake_up = probe.next_deadline();
        let before = std::mem::replace(&mut probe.wake_up, wake_up);
        if before != wake_up {
            before.map(|when| self.agenda.remove(&(when, id)));
            wake_up.map(|when| self.agenda.insert((when, id)));
        }
    }

    /// Ends a probe, running or not, and answers all its requests.
    fn finish(&mut self, id: ProbeId, outcome: ProbeOutcome) {
        let Some(probe) = self.by_id.remove(&id) else { return };
        if self.by_target.get(&probe.target) == Some(&id) {
            self.by_target.remove(&probe.target);
        }
        probe.wake_up.map(|when| self.agenda.remove(&(when, id)));
        let location = probe.location();
        if probe.is_waiting() {
            self.lane(location).remove(id, probe.patience);
        } else {
            self.lane(location).finish();
        }
        if let Stage::InDaemon { token: Some(token), .. } = probe.stage {
            self.by_token.remove(&token);
        }
        self.answers.extend(probe.requests.into_iter().map(|request| request.answer(outcome)));
    }
}
