//! Performing the registry's effects.

use std::ops::ControlFlow;

use super::{EventLoop, exited};
use crate::audit_log;
use crate::edge::clock::now;
use crate::edge::processes::WatchOutcome;
use crate::peer::Process;
use crate::registry::{Effects, Input, Miss};

impl EventLoop {
    /// The counters and gauges of the edge, for STATS.
    fn edge_counts(&self) -> Vec<(&'static str, u64)> {
        let counters = self.connections.counters();
        vec![
            ("connections", self.connections.len() as u64),
            ("processes", self.processes.len() as u64),
            ("accepted", counters.accepted),
            ("refused", counters.refused),
            ("violations", counters.violations),
            ("dropped", counters.dropped),
            ("requests", counters.requests),
        ]
    }

    /// Performs the effects in their order. Breaks when a client has shut the daemon down.
    pub(super) fn perform(&mut self, effects: Effects) -> ControlFlow<()> {
        for change in &effects.changed {
            audit_log::change(change);
        }
        for refusal in &effects.refused {
            if let Some(suppressed) = self.refusal_log.allow(now()) {
                audit_log::refusal(refusal, suppressed);
            }
        }
        for conflict in &effects.conflicts {
            if let Some(suppressed) = self.refusal_log.allow(now()) {
                audit_log::name_conflict(conflict, suppressed);
            }
        }
        for Miss { connection, topic } in effects.missed {
            let (uid, pid) = self.connections.user_and_pid(connection);
            tracing::debug!(connection = connection.0, topic, uid, pid, "not found");
        }
        for reply in effects.replies {
            let body = reply.body.into_bytes(|| self.edge_counts());
            let (connection, bytes) = (reply.to.connection.0, body.len());
            tracing::debug!(connection, status = %reply.status, bytes, "reply");
            self.connections.reply(&reply.to, &body);
        }
        for connection in effects.cancelled {
            self.connections.cancel(connection);
        }
        for process in effects.unwatch {
            self.processes.unwatch(process);
        }
        for process in effects.watch {
            self.watch(process);
        }
        for process in effects.check {
            if self.processes.has_exited(process) {
                self.inbox.extend(exited(process));
            } else if !self.processes.is_exiting(process, now()) {
                self.inbox.push(Input::ProcessChecked(process));
            }
        }
        for probe in effects.probe {
            self.probes.start(probe, now());
        }
        if effects.stop {
            tracing::info!("shut down by a client");
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn watch(&mut self, process: Process) {
        match self.processes.watch(process, now()) {
            WatchOutcome::Alive => {}
            WatchOutcome::Exited => self.inbox.push(Input::ProcessExited(process)),
            WatchOutcome::Unseen => self.inbox.push(Input::ProcessUnseen(process)),
        }
    }
}
