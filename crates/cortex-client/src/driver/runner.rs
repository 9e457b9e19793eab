//! The driver's thread.
//!
//! Each operation has a machine and at most one request in progress. A round takes the commands,
//! the connection's events and the operations that are due, and sends what it can. Then the thread
//! polls the connection and its waker.

mod connection;
mod operations;

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use cortex_proto::{ConnectTarget, TopicInfo};
use tracing::debug;

use super::advertisements::Advertisements;
use super::link::{Link, LinkStep};
use super::oneshot::Sender;
use super::timers::Timers;
use super::waker::WakeSource;
use super::{Command, Shared};
use crate::error::{Error, Result};
use crate::protocol::Action;
use crate::protocol::list_poll::ListPoll;
use crate::protocol::reply::RawReply;
use crate::protocol::request::{Query, RetryPolicy};
use crate::protocol::retry::Exchange;
use crate::protocol::wait::Wait;
use crate::state_cell::wake;
use crate::watch_handle::WatchOperation;

/// How many events of the connection a round takes, so that timers and commands get their turn.
const MAX_EVENTS_PER_ROUND: usize = 256;

/// The operation of the LISTs that all waits and watches share at a legacy daemon.
const LIST: u64 = 0;
/// The operation of all advertisements.
const ADVERTISEMENTS: u64 = 1;
/// The first id of the other operations.
pub(super) const FIRST_ID: u64 = 2;

/// What an operation does.
pub(super) enum Machine {
    /// One request with its attempts.
    Call {
        query: Option<Query>,
        policy: RetryPolicy,
        reply: Sender<RawReply>,
    },
    Wait {
        state: Wait,
        reply: Sender<TopicInfo>,
    },
    Watch(WatchOperation),
    List(ListPoll),
    Advertisements(Box<Advertisements>),
}

struct Operation {
    machine: Machine,
    exchange: Option<Exchange>,
}

/// The end of the client, under way.
struct Closing {
    until: Instant,
    done: Vec<Sender<()>>,
}

pub(super) struct Runner {
    shared: Arc<Shared>,
    wake_source: WakeSource,
    link: Link,
    operations: HashMap<u64, Operation>,
    timers: Timers,
    last_number: u64,
    /// The operations whose request waits for the connection, by the request's number.
    unsent: BTreeMap<u64, u64>,
    /// The operations whose request the daemon has.
    sent: BTreeMap<u64, u64>,
    /// The parked requests to cancel.
    cancels: Vec<u64>,
    /// The socket takes no more requests at present.
    is_blocked: bool,
    /// The tasks whose result is there. They wake at the end of the round, so that they do not
    /// compete with it.
    wakers: Vec<Waker>,
    closing: Option<Closing>,
}

impl Runner {
    /// Starts to connect.
    ///
    /// # Errors
    /// [`Error::Transport`].
    pub(super) fn new(shared: Arc<Shared>, wake_source: WakeSource, now: Instant) -> Result<Self> {
        let settings = &shared.settings;
        let mut link = Link::new(settings.address.clone());
        // A host name is resolved by the first request.
        let first_step = match settings.address.target() {
            ConnectTarget::HostName { .. } => LinkStep::None,
            ConnectTarget::Path(_) | ConnectTarget::Abstract(_) | ConnectTarget::Ip(_) => {
                link.step(true, now)?
            }
        };
        debug_assert_eq!(first_step, LinkStep::None);
        let list = Machine::List(ListPoll::new(settings.policy.timeout));
        let advertisements = Machine::Advertisements(Box::new(Advertisements::new(settings)));
        let operation = |machine| Operation { machine, exchange: None };
        let operations =
            HashMap::from([(LIST, operation(list)), (ADVERTISEMENTS, operation(advertisements))]);
        Ok(Self {
            shared,
            wake_source,
            link,
            operations,
            timers: Timers::default(),
            last_number: 0,
            unsent: BTreeMap::new(),
            sent: BTreeMap::new(),
            cancels: Vec::new(),
            is_blocked: false,
            wakers: Vec::new(),
            closing: None,
        })
    }

    pub(super) fn run(mut self) {
        let _ = self.shared.thread.set(thread::current().id());
        debug!(address = self.link.address().as_str(), "the client starts");
        loop {
            let now = Instant::now();
            self.take_commands(now);
            let has_more = self.take_connection_events(now);
            if !has_more {
                while let Some(id) = self.timers.pop_due(now) {
                    self.poll(id, now);
                }
            }
            self.step_link(now);
            self.flush();
            wake(self.wakers.drain(..));
            if self.is_over(now) {
                return;
            }
            self.wait_for_events(has_more);
        }
    }

    fn take_commands(&mut self, now: Instant) {
        let commands = mem::take(&mut self.shared.queue().commands);
        for command in commands {
            match command {
                Command::Start { id, machine } => {
                    self.operations.insert(id, Operation { machine, exchange: None });
                    self.poll(id, now);
                }
                Command::Cancel { id } => self.remove(id, now),
                Command::Continue { id } => self.poll(id, now),
                Command::Advertise { id, info, status, on_notice } => {
                    self.advertise(now, |it| it.add(id, info, status, on_notice, now));
                }
                Command::Withdraw { id } => self.advertise(now, |it| it.remove(id)),
                Command::Close { within, done } => {
                    self.advertise(now, Advertisements::remove_all);
                    let until = now + within;
                    let closing = self.closing.get_or_insert(Closing { until, done: Vec::new() });
                    closing.until = closing.until.min(until);
                    closing.done.push(done);
                }
                Command::Resolved(resolved) => {
                    let is_error = resolved.is_err();
                    self.link.resolved(resolved, now);
                    if is_error {
                        self.fail_fast(now);
                    }
                }
                Command::Probed(cause) => {
                    self.link.probed(cause);
                    self.fail_fast(now);
                }
            }
        }
    }

    /// Changes the advertisements, and carries out what follows.
    fn advertise(&mut self, now: Instant, change: impl FnOnce(&mut Advertisements)) {
        if let Some(Operation { machine: Machine::Advertisements(advertisements), .. }) =
            self.operations.get_mut(&ADVERTISEMENTS)
        {
            change(advertisements);
            advertisements.deliver_events();
            self.shared.is_legacy.store(advertisements.is_legacy(), Ordering::Relaxed);
        }
        self.poll(ADVERTISEMENTS, now);
    }

    fn advertisements(&self) -> Option<&Advertisements> {
        match &self.operations.get(&ADVERTISEMENTS)?.machine {
            Machine::Advertisements(advertisements) => Some(advertisements),
            Machine::Call { .. } | Machine::Wait { .. } | Machine::Watch(_) | Machine::List(_) => {
                None
            }
        }
    }

    /// Whether the client is closed and its topics are withdrawn, or their time is over.
    fn is_over(&mut self, now: Instant) -> bool {
        let is_idle = self.advertisements().is_none_or(Advertisements::is_idle);
        let is_hopeless = self.link.is_down();
        let Some(closing) = &mut self.closing else { return false };
        if !is_idle && !is_hopeless && now < closing.until {
            return false;
        }
        let address = self.shared.settings.address.as_str().to_owned();
        let waited = super::CLOSE_TIMEOUT;
        let cause = self.link.cause().cloned();
        for done in mem::take(&mut closing.done) {
            let (address, cause) = (address.clone(), cause.clone());
            let no_answer = Error::NoAnswer { address, waited, attempts: 1, cause };
            wake(done.send(if is_idle { Ok(()) } else { Err(no_answer) }));
        }
        true
    }

    fn wait_for_events(&mut self, has_more: bool) {
        self.wake_source.begin_poll();
        let has_work = has_more
            || !self.shared.queue().commands.is_empty()
            || self.link.socket().is_some_and(|socket| socket.has_failed());
        if has_work {
            return self.wake_source.end_poll(false);
        }
        let deadlines = [
            self.timers.next(),
            self.link.deadline(self.wants_connection()),
            self.closing.as_ref().map(|closing| closing.until),
        ];
        let timeout = match deadlines.into_iter().flatten().min() {
            Some(at) => poll_millis(at.saturating_duration_since(Instant::now())),
            None => -1,
        };
        let is_blocked = self.is_blocked;
        let waker = zmq::PollItem::from_fd(self.wake_source.fd(), zmq::POLLIN);
        let mut items = vec![waker];
        if let Some(socket) = self.link.socket() {
            items.extend(socket.poll_items(is_blocked));
        }
        let is_polled = zmq::poll(&mut items, timeout).is_ok();
        let is_readable = is_polled && items[0].is_readable();
        let has_monitor_event = is_polled && items.get(2).is_some_and(zmq::PollItem::is_readable);
        drop(items);
        if has_monitor_event && let Some(socket) = self.link.socket() {
            socket.note_monitor_event();
        }
        // After an error, such as a signal, the next round looks for work.
        self.wake_source.end_poll(is_readable);
    }
}

impl Drop for Runner {
    /// Also after a panic: the operations are dropped, which ends their calls.
    fn drop(&mut self) {
        let commands = {
            let mut queue = self.shared.queue();
            queue.is_over = true;
            mem::take(&mut queue.commands)
        };
        commands.into_iter().for_each(Command::refuse);
        wake(self.wakers.drain(..));
    }
}

impl Machine {
    fn next_action(&mut self, now: Instant) -> Action {
        match self {
            Self::Call { query, .. } => query.take().map_or(Action::Wait(None), Action::Send),
            Self::Wait { state, .. } => state.next_action(now),
            Self::Watch(watch) => watch.next_action(now),
            Self::List(list) => list.next_action(now),
            Self::Advertisements(advertisements) => advertisements.next_action(now),
        }
    }
}

/// `within` in milliseconds for a poll: rounded up, so that the poll does not return just before
/// the deadline again and again, and at most an hour, which is always a valid argument.
fn poll_millis(within: Duration) -> i64 {
    const HOUR: i64 = 60 * 60 * 1000;
    let millis = within.as_nanos().div_ceil(1_000_000);
    i64::try_from(millis).map_or(HOUR, |millis| millis.min(HOUR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_are_rounded_up_and_bounded() {
        assert_eq!(poll_millis(Duration::ZERO), 0);
        assert_eq!(poll_millis(Duration::from_nanos(1)), 1);
        assert_eq!(poll_millis(Duration::from_millis(7)), 7);
        assert_eq!(poll_millis(Duration::from_micros(7001)), 8);
        assert_eq!(poll_millis(Duration::MAX), 3_600_000);
    }
}
