//! The runner's connection: its events, its loss, and the requests that it takes.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use cortex_proto::{ConnectTarget, DiscoveryRequest};
use tracing::debug;

use super::super::advertisements::Advertisements;
use super::super::link::LinkStep;
use super::super::socket::ConnectionEvent;
use super::super::{Command, resolver};
use super::{ADVERTISEMENTS, MAX_EVENTS_PER_ROUND, Machine, Operation, Runner};
use crate::error::Error;
use crate::protocol::Outcome;
use crate::protocol::reply::RawReply;
use crate::protocol::request::OnLoss;

impl Runner {
    /// Takes the connection's events. True when there may be more.
    pub(super) fn take_connection_events(&mut self, now: Instant) -> bool {
        for _ in 0..MAX_EVENTS_PER_ROUND {
            let was_up = self.link.is_up();
            let Some(event) = self.link.next_event(now) else { return false };
            match event {
                ConnectionEvent::Up => self.advertise(now, Advertisements::connected),
                ConnectionEvent::Reply { number, body, parts } => {
                    self.shared.replies.fetch_add(1, Ordering::Relaxed);
                    self.take_reply(number, body, parts, now);
                }
                ConnectionEvent::Lost if was_up => self.connection_lost(now),
                // The cause is that of the last failure, if it is known.
                ConnectionEvent::Lost => self.fail_fast(now),
            }
        }
        true
    }

    fn take_reply(&mut self, number: u64, body: Vec<u8>, parts: usize, now: Instant) {
        let Some(id) = self.sent.remove(&number) else {
            return debug!(number, "a reply without a waiting caller");
        };
        let operation = self.operations.get_mut(&id);
        let Some(exchange) = operation.and_then(|operation| operation.exchange.take()) else {
            return;
        };
        let reply = RawReply {
            body: Arc::new(body),
            parts,
            times_sent: exchange.times_sent(),
            sent_at: exchange.sent_at().unwrap_or(now),
            received_at: now,
        };
        self.deliver(id, Outcome::Reply(reply), now);
        self.poll(id, now);
    }

    /// Drops a connection that is dead, although it is open.
    pub(super) fn disconnect(&mut self, now: Instant) {
        debug!("the connection is silent");
        let was_up = self.link.is_up();
        self.link.disconnect(now);
        if was_up {
            self.connection_lost(now);
        }
    }

    /// The connection was lost, and all requests that the daemon had with it.
    fn connection_lost(&mut self, now: Instant) {
        self.cancels.clear();
        self.is_blocked = false;
        let sent = mem::take(&mut self.sent);
        let unsent: Vec<_> = self.unsent.iter().map(|(number, id)| (*number, *id)).collect();
        let mut lost = Vec::new();
        for (number, id) in sent.into_iter().chain(unsent) {
            let Some(operation) = self.operations.get_mut(&id) else { continue };
            let Some(exchange) = &mut operation.exchange else { continue };
            let was_sent = exchange.sent_at().is_some();
            match exchange.query().on_loss {
                OnLoss::Resend if was_sent => {
                    self.last_number += 1;
                    exchange.lost(self.last_number);
                    self.unsent.insert(self.last_number, id);
                    if let Machine::Watch(watch) = &operation.machine {
                        watch.disconnected(&self.shared.settings);
                    }
                }
                OnLoss::ReportParked => lost.push((number, id)),
                OnLoss::Report if was_sent => lost.push((number, id)),
                OnLoss::Resend | OnLoss::Report => {}
            }
        }
        for (number, id) in lost {
            self.unsent.remove(&number);
            if let Some(operation) = self.operations.get_mut(&id) {
                operation.exchange = None;
            }
            self.deliver(id, Outcome::Lost, now);
            self.poll(id, now);
        }
        self.advertise(now, |it| it.disconnected(now));
    }

    pub(super) fn wants_connection(&self) -> bool {
        !self.unsent.is_empty() || self.advertisements().is_some_and(|it| !it.is_idle())
    }

    pub(super) fn step_link(&mut self, now: Instant) {
        let wants_connection = self.wants_connection();
        match self.link.step(wants_connection, now) {
            Ok(LinkStep::None | LinkStep::Overdue) => {}
            Ok(LinkStep::Resolve) => self.resolve(now),
            Ok(LinkStep::Probe) => self.probe(),
            Err(error) => {
                self.fail_unsent(&error, |_| true, now);
                self.advertise(now, |it| it.failed(&error));
            }
        }
        if self.link.is_overdue() {
            self.fail_fast(now);
        }
        let cause = self.link.cause().cloned();
        if let Some(Operation { machine: Machine::Advertisements(advertisements), .. }) =
            self.operations.get_mut(&ADVERTISEMENTS)
        {
            advertisements.not_connected(cause);
        }
    }

    fn resolve(&mut self, now: Instant) {
        let ConnectTarget::HostName { name, port } = self.link.address().target().clone() else {
            return;
        };
        let shared = Arc::clone(&self.shared);
        let done = move |resolved| shared.send(Command::Resolved(resolved));
        if !resolver::resolve(name, port, done) {
            self.link.disconnect(now);
        }
    }

    fn probe(&mut self) {
        let target = self.link.address().target().clone();
        let addresses = self.link.resolved_addresses().to_vec();
        let shared = Arc::clone(&self.shared);
        if !resolver::probe(target, addresses, move |cause| shared.send(Command::Probed(cause))) {
            self.link.probed(None);
        }
    }

    /// Ends the calls that do not wait for a daemon, when the client knows why none is reachable.
    pub(super) fn fail_fast(&mut self, now: Instant) {
        if !self.shared.settings.fail_fast {
            return;
        }
        if let Some(cause) = self.link.cause().cloned() {
            let address = self.shared.settings.address.as_str().to_owned();
            let is_call = |machine: &Machine| matches!(machine, Machine::Call { .. });
            self.fail_unsent(&Error::Unreachable { address, cause }, is_call, now);
        }
    }

    fn fail_unsent(&mut self, error: &Error, is_meant: impl Fn(&Machine) -> bool, now: Instant) {
        let unsent: Vec<_> = self.unsent.values().copied().collect();
        for id in unsent {
            if self.operations.get(&id).is_some_and(|operation| is_meant(&operation.machine)) {
                self.abandon(id, now);
                self.deliver(id, Outcome::Failed(error.clone()), now);
                self.poll(id, now);
            }
        }
    }

    /// Sends what the connection takes, in order.
    pub(super) fn flush(&mut self) {
        if !self.link.is_up() {
            return;
        }
        let now = Instant::now();
        self.is_blocked = false;
        let Some(socket) = self.link.socket() else { return };
        while let Some(number) = self.cancels.last() {
            if !socket.send(*number, &DiscoveryRequest::cancel().to_bytes()) {
                self.is_blocked = true;
                return;
            }
            self.cancels.pop();
        }
        while let Some(entry) = self.unsent.first_entry() {
            let (number, id) = (*entry.key(), *entry.get());
            let operation = self.operations.get_mut(&id);
            let exchange = operation.and_then(|operation| operation.exchange.as_mut());
            if let Some(exchange) = exchange {
                if !socket.send(number, &exchange.query().body) {
                    self.is_blocked = true;
                    return;
                }
                exchange.sent(now);
                self.sent.insert(number, id);
            }
            entry.remove();
        }
    }
}
