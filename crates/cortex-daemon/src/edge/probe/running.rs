//! One probe: the requests that share it, and how far it has come.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use cortex_proto::TopicName;
use mio::Token;

use super::address::Target;
use super::attempt::{ConnectionAttempt, Endpoint};
use super::helper::Task;
use super::limits::{MAX_PATIENCE, NAME_TIMEOUT, PATH_TIMEOUT};
use super::outcome::{ProbeAnswer, ProbeOutcome};
use crate::peer::EndpointListener;
use crate::registry::{ProbeResult, UnknownReason};

/// Where probes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbeLocation {
    Daemon,
    PathHelper,
    NameHelper,
}

/// The probe of a target.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) target: Target,
    /// The addresses of a host name, once resolved.
    pub(super) addresses: Option<Vec<SocketAddr>>,
    pub(super) requests: Vec<WaitingRequest>,
    /// The least patience of all requests so far.
    pub(super) patience: Duration,
    pub(super) stage: Stage,
    /// When it began first.
    begun: Option<Instant>,
    /// What a probe before has found for requests that had joined it late.
    pub(super) silence: Option<ProbeOutcome>,
    /// Whether a helper was lost while it ran the probe.
    pub(super) is_retry: bool,
    /// The probe's place in the agenda.
    pub(super) wake_up: Option<Instant>,
}

/// A request that waits for a probe.
#[derive(Debug)]
pub(super) struct WaitingRequest {
    pub(super) name: TopicName,
    pub(super) revision: u64,
    pub(super) patience: Duration,
    /// `None` until the probe runs.
    pub(super) deadline: Option<Instant>,
    /// Whether an absent socket counts as dead.
    pub(super) judges_absence: bool,
}

/// How far a probe has come.
#[derive(Debug)]
pub(super) enum Stage {
    Waiting,
    Starting,
    InDaemon { attempt: ConnectionAttempt, token: Option<Token> },
    InHelper { since: Instant, listener: Option<EndpointListener>, is_connected: bool },
}

impl WaitingRequest {
    pub(super) fn answer(self, outcome: ProbeOutcome) -> ProbeAnswer {
        let Self { name, revision, judges_absence, .. } = self;
        let outcome = if outcome.result == ProbeResult::Dead && !judges_absence {
            ProbeResult::Unknown(UnknownReason::Namespace).into()
        } else {
            outcome
        };
        ProbeAnswer { name, revision, outcome }
    }
}

impl Probe {
    pub(super) fn new(target: Target, request: WaitingRequest) -> Self {
        Self {
            target,
            addresses: None,
            patience: request.patience,
            requests: vec![request],
            stage: Stage::Waiting,
            begun: None,
            silence: None,
            is_retry: false,
            wake_up: None,
        }
    }

    pub(super) fn location(&self) -> ProbeLocation {
        match (&self.target, &self.addresses) {
            (Target::Path(_) | Target::RelativePath(..), _) => ProbeLocation::PathHelper,
            (Target::HostName { .. }, None) => ProbeLocation::NameHelper,
            (Target::HostName { .. } | Target::Tcp(_) | Target::Abstract(_), _) => {
                ProbeLocation::Daemon
            }
        }
    }

    /// What a helper does for the probe; `None` when it runs in the daemon.
    pub(super) fn task(&self) -> Option<Task> {
        match (&self.target, &self.addresses) {
            (Target::Path(path), _) => Some(Task::Connect { path: path.clone() }),
            (Target::RelativePath(process, path), _) => {
                Some(Task::ConnectFrom { process: *process, path: path.clone() })
            }
            (Target::HostName { name, .. }, None) => Some(Task::Resolve { name: name.clone() }),
            (Target::HostName { .. } | Target::Tcp(_) | Target::Abstract(_), _) => None,
        }
    }

    /// Where a probe in the daemon connects.
    pub(super) fn endpoint(&self) -> Endpoint {
        match (&self.target, &self.addresses) {
            (Target::Abstract(name), _) => Endpoint::Abstract(name.clone()),
            (Target::Tcp(addresses), _) | (_, Some(addresses)) => {
                Endpoint::Tcp(addresses.iter().copied().collect())
            }
            _ => Endpoint::Tcp([].into()),
        }
    }

    /// Whether the probe has begun: its connection may lead to a listener that no longer has the
    /// address.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.is_some()
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting)
    }

    /// Whether the helper has waited for the first byte as long as it does, and requests have joined
    /// the probe meanwhile: they need to see the silence for themselves, since a second silence in a
    /// row may be decisive.
    pub(super) fn must_look_again(&self, result: ProbeResult, now: Instant) -> bool {
        let waited = self.since().map(|since| now.saturating_duration_since(since));
        result == ProbeResult::Silent
            && waited >= Some(MAX_PATIENCE)
            && self.requests.iter().any(|request| request.deadline.is_none_or(|end| end > now))
    }

    /// Goes back among the waiting probes, for the requests that have joined late.
    pub(super) fn look_again(&mut self) {
        self.silence = Some(ProbeOutcome::new(ProbeResult::Silent, || self.listener()));
        self.stage = Stage::Waiting;
    }

    /// Goes back among the waiting probes, after the loss of its helper.
    pub(super) fn begin_again(&mut self) {
        self.stage = Stage::Waiting;
        for request in &mut self.requests {
            request.deadline = None;
        }
    }

    /// When the helper got the probe.
    pub(super) fn since(&self) -> Option<Instant> {
        match self.stage {
            Stage::InHelper { since, .. } => Some(since),
            Stage::Waiting | Stage::Starting | Stage::InDaemon { .. } => None,
        }
    }

    pub(super) fn is_in_helper(&self) -> bool {
        matches!(self.stage, Stage::InHelper { .. })
    }

    /// Notes that the probe has got a place, and lets the patience of its requests begin.
    pub(super) fn begin(&mut self, now: Instant) {
        self.stage = Stage::Starting;
        self.begun.get_or_insert(now);
        for request in &mut self.requests {
            request.deadline.get_or_insert(now + request.patience);
        }
    }

    /// Notes that the helper has a connection.
    pub(super) fn connected(&mut self, found: Option<EndpointListener>) {
        if let Stage::InHelper { listener, is_connected, .. } = &mut self.stage {
            (*listener, *is_connected) = (found, true);
        }
    }

    /// What listens at the helper's connection.
    pub(super) fn listener(&self) -> Option<EndpointListener> {
        match &self.stage {
            Stage::InHelper { listener, .. } => *listener,
            Stage::Waiting | Stage::Starting | Stage::InDaemon { .. } => None,
        }
    }

    /// The outcome for a request that waits no longer.
    pub(super) fn outcome_so_far(&self) -> ProbeOutcome {
        match &self.stage {
            Stage::InDaemon { attempt, .. } => attempt.outcome_at_deadline(),
            Stage::InHelper { listener, is_connected: true, .. } => {
                ProbeOutcome { result: ProbeResult::Silent, listener: *listener }
            }
            Stage::Waiting | Stage::Starting | Stage::InHelper { .. } if self.silence.is_some() => {
                self.silence.unwrap_or(ProbeResult::Silent.into())
            }
            Stage::InHelper { .. } if self.location() == ProbeLocation::NameHelper => {
                ProbeResult::Unknown(UnknownReason::HostName).into()
            }
            Stage::Waiting | Stage::Starting | Stage::InHelper { .. } => {
                ProbeResult::Unknown(UnknownReason::Failure).into()
            }
        }
    }

    /// Takes the requests whose patience is over, and answers them.
    pub(super) fn answer_due(&mut self, outcome: ProbeOutcome, now: Instant) -> Vec<ProbeAnswer> {
        let is_due = |request: &mut WaitingRequest| request.deadline.is_some_and(|end| end <= now);
        self.requests.extract_if(.., is_due).map(|request| request.answer(outcome)).collect()
    }

    /// Whether no request waits for the probe any more. A probe in a helper ends with the helper's
    /// report.
    pub(super) fn has_ended(&self, now: Instant) -> bool {
        let waits = |request: &WaitingRequest| request.deadline.is_none_or(|end| end > now);
        match &self.stage {
            Stage::Waiting | Stage::Starting | Stage::InDaemon { .. } => {
                !self.requests.iter().any(waits)
            }
            Stage::InHelper { .. } => false,
        }
    }

    /// Whether the helper has taken too long.
    pub(super) fn hangs(&self, now: Instant) -> bool {
        self.hangs_at().is_some_and(|at| at <= now)
    }

    fn hangs_at(&self) -> Option<Instant> {
        let Stage::InHelper { since, is_connected, .. } = self.stage else { return None };
        let timeout = match self.location() {
            ProbeLocation::NameHelper => NAME_TIMEOUT,
            ProbeLocation::PathHelper | ProbeLocation::Daemon => PATH_TIMEOUT,
        };
        let greeting = if is_connected { MAX_PATIENCE } else { Duration::ZERO };
        Some(since + timeout + greeting)
    }

    /// When something must happen without an event.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let end = match &self.stage {
            Stage::InHelper { .. } => self.hangs_at(),
            Stage::Waiting | Stage::Starting | Stage::InDaemon { .. } => None,
        };
        let deadlines = self.requests.iter().filter_map(|request| request.deadline);
        deadlines.chain(end).min()
    }
}
