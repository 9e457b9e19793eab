//! The operations: what they want, and what becomes of their requests.

use std::time::Instant;

use super::super::link::Link;
use super::{LIST, Machine, Operation, Runner};
use crate::error::{Error, Result};
use crate::protocol::reply::RawReply;
use crate::protocol::request::{OnLoss, Query, RetryPolicy};
use crate::protocol::retry::{Exchange, Step};
use crate::protocol::{Action, Outcome};

impl Runner {
    /// Carries out what an operation wants. Spurious calls change nothing.
    pub(super) fn poll(&mut self, id: u64, now: Instant) {
        loop {
            let Some(operation) = self.operations.get_mut(&id) else { return };
            let until = match &mut operation.exchange {
                Some(exchange) => match exchange.next_step(now) {
                    Step::Wait(until) => until,
                    Step::Retry => {
                        let previous = exchange.number();
                        let is_dead = is_dead(exchange, &self.link, now);
                        self.last_number += 1;
                        exchange.retry(self.last_number, now);
                        self.unsent.remove(&previous);
                        self.sent.remove(&previous);
                        self.unsent.insert(self.last_number, id);
                        if is_dead {
                            self.disconnect(now);
                        }
                        continue;
                    }
                    Step::GiveUp => {
                        let was_lost = exchange.was_lost();
                        self.abandon(id, now);
                        self.deliver(id, Outcome::NoAnswer { was_lost }, now);
                        continue;
                    }
                },
                None => match operation.machine.next_action(now) {
                    Action::Send(query) => {
                        self.start_exchange(id, query, now);
                        continue;
                    }
                    Action::List { due, until } => {
                        self.subscribe_to_list(id, due, now);
                        until
                    }
                    Action::Wait(until) => until,
                    Action::Finish => return self.finish(id, now),
                },
            };
            self.timers.set(id, until);
            return;
        }
    }

    fn start_exchange(&mut self, id: u64, query: Query, now: Instant) {
        if query.on_loss == OnLoss::ReportParked && !self.link.is_up() {
            return self.deliver(id, Outcome::Lost, now);
        }
        self.last_number += 1;
        if let Some(operation) = self.operations.get_mut(&id) {
            operation.exchange = Some(Exchange::start(query, self.last_number, now));
            self.unsent.insert(self.last_number, id);
        }
    }

    fn subscribe_to_list(&mut self, id: u64, due: Instant, now: Instant) {
        if let Some(Operation { machine: Machine::List(list), .. }) = self.operations.get_mut(&LIST)
        {
            list.subscribe(id, due);
        }
        self.poll(LIST, now);
    }

    /// The time of a wait is over.
    fn finish(&mut self, id: u64, now: Instant) {
        let cause = self.link.cause().cloned();
        if let Some(operation) = self.remove_operation(id, now)
            && let Machine::Wait { state, reply } = operation.machine
        {
            let wakers =
                reply.send(Err(state.failure(self.shared.settings.address.as_str(), cause)));
            self.wakers.extend(wakers);
        }
    }

    /// Removes an operation that nobody wants any more.
    pub(super) fn remove(&mut self, id: u64, now: Instant) {
        drop(self.remove_operation(id, now));
    }

    fn remove_operation(&mut self, id: u64, now: Instant) -> Option<Operation> {
        self.abandon(id, now);
        self.timers.set(id, None);
        if let Some(Operation { machine: Machine::List(list), .. }) = self.operations.get_mut(&LIST)
        {
            list.unsubscribe(id);
        }
        self.operations.remove(&id)
    }

    /// Gives up the request of an operation. An unsent one is never sent, the daemon forgets a
    /// parked one, and the answer to a sent one reaches nobody.
    pub(super) fn abandon(&mut self, id: u64, now: Instant) {
        let operation = self.operations.get_mut(&id);
        let Some(exchange) = operation.and_then(|operation| operation.exchange.take()) else {
            return;
        };
        let number = exchange.number();
        self.unsent.remove(&number);
        if self.sent.remove(&number).is_none() {
            return;
        }
        if is_dead(&exchange, &self.link, now) {
            self.disconnect(now);
        } else if exchange.is_parked() {
            self.cancels.push(number);
        }
    }

    /// Passes the outcome of its request to an operation. The caller polls the operation.
    pub(super) fn deliver(&mut self, id: u64, outcome: Outcome, now: Instant) {
        let Some(operation) = self.operations.get_mut(&id) else { return };
        match &mut operation.machine {
            Machine::Call { policy, .. } => {
                let policy = *policy;
                let result = self.call_result(outcome, policy);
                self.timers.set(id, None);
                if let Some(Operation { machine: Machine::Call { reply, .. }, .. }) =
                    self.operations.remove(&id)
                {
                    self.wakers.extend(reply.send(result));
                }
            }
            Machine::Wait { state, .. } => {
                let result = state.outcome(outcome, now);
                if let Some(result) = result.transpose()
                    && let Some(operation) = self.remove_operation(id, now)
                    && let Machine::Wait { reply, .. } = operation.machine
                {
                    self.wakers.extend(reply.send(result));
                }
            }
            Machine::Watch(watch) => {
                let settings = &self.shared.settings;
                watch.outcome(outcome, settings, self.link.cause(), now);
            }
            Machine::List(list) => {
                for subscriber in list.take_subscribers() {
                    self.deliver(subscriber, outcome.clone(), now);
                    self.poll(subscriber, now);
                }
            }
            Machine::Advertisements(_) => self.advertise(now, |it| it.outcome(outcome, now)),
        }
    }

    fn call_result(&self, outcome: Outcome, policy: RetryPolicy) -> Result<RawReply> {
        let address = self.shared.settings.address.as_str().to_owned();
        match outcome {
            Outcome::Reply(reply) => Ok(reply),
            Outcome::Lost => Err(Error::Disconnected { address }),
            Outcome::NoAnswer { .. } => Err(Error::NoAnswer {
                address,
                waited: policy.total(),
                attempts: policy.attempts_made(),
                cause: self.link.cause().cloned(),
            }),
            Outcome::Failed(error) => Err(error),
        }
    }
}

/// Whether the missing answer shows that the connection is dead.
fn is_dead(exchange: &Exchange, link: &Link, now: Instant) -> bool {
    link.up_since()
        .is_some_and(|up_since| exchange.shows_dead_connection(up_since, link.last_received(), now))
}
