//! The daemon: one poll, one round after the other.
//!
//! A round reads what peers ask, lets the registry decide, performs its effects in order, and
//! sends. New connections come last, so that those that have just closed make room for them.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cortex_proto::{DiscoveryRequest, DiscoveryStatus, TopicInfo};
use mio::{Events, Poll, Token};
use thiserror::Error;

use crate::config::{Address, Config};
use crate::edge::clock::now;
use crate::edge::connections::{Asked, Connections};
use crate::edge::descriptors::room_for_connections;
use crate::edge::listener::{ListenError, Listener};
use crate::edge::stop::{StopHandle, StopSource};
use crate::peer::ReplyTo;
use crate::registry::{Change, Effect, Input, Registry, reply_bytes};
use crate::zmtp::{Body, MAX_BODY};

const STOP: Token = Token(usize::MAX - 1);
/// Listeners have the tokens below, connections those from here on.
const FIRST_CONNECTION: usize = 1 << 16;
const EVENTS_A_ROUND: usize = 1024;
/// With more bytes than this in new replies, a round is over: what is left comes next.
const BYTES_A_ROUND: usize = 1024 * 1024;
/// How often the socket files are looked at.
const FILE_CHECK: Duration = Duration::from_secs(1);
/// How long peers have at the end to take the replies that they are owed.
const LAST_REPLIES: Duration = Duration::from_millis(40);

/// A discovery daemon that listens already.
///
/// ```no_run
/// use cortex_daemon::{Config, DiscoveryDaemon};
///
/// let daemon = DiscoveryDaemon::bind(&Config::at("ipc:///tmp/demo/discovery.sock".parse()?))?;
/// let stop = daemon.stop_handle();
/// let running = std::thread::spawn(move || daemon.run());
/// stop.stop();
/// running.join().expect("the daemon does not panic")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct DiscoveryDaemon {
    poll: Poll,
    listeners: Vec<Listener>,
    connections: Connections,
    registry: Registry,
    /// Requests that were read and could not be answered yet, in the order in which they came.
    held: Vec<Asked>,
    /// Some of them could be answered now.
    is_behind: bool,
    stop_handle: StopHandle,
    stop_source: StopSource,
    next_file_check: Instant,
}

/// Why a daemon does not start.
#[derive(Debug, Error)]
pub enum BindError {
    /// An address cannot be listened at.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// There is nowhere to listen.
    #[error("a daemon needs an address to listen at")]
    NoAddress,
    /// The system refused something else.
    #[error("cannot set up the daemon's poll and pipe")]
    Poll(#[from] io::Error),
}

impl BindError {
    /// Whether somebody serves at the address already.
    #[must_use]
    pub fn is_already_running(&self) -> bool {
        matches!(self, Self::Listen(ListenError::AlreadyRuns(_) | ListenError::InUse(_)))
    }
}

/// Why a daemon ended, other than because it was asked to.
#[derive(Debug, Error)]
pub enum RunError {
    /// Another program has taken the socket's place: no client can reach this daemon any more.
    #[error(
        "the socket file {} was removed or replaced by another program: nobody can reach this \
         daemon any more. Start it again when the other program has ended", .0.display()
    )]
    SocketLost(PathBuf),
    /// The system failed us.
    #[error("the daemon's poll failed")]
    Poll(#[from] io::Error),
}

/// Whether the loop goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Round,
    Stop,
}

impl DiscoveryDaemon {
    /// Listens at all addresses of `config`.
    ///
    /// # Errors
    /// When one of them cannot be had; then none is kept.
    pub fn bind(config: &Config) -> Result<Self, BindError> {
        Self::bind_with(config, StopHandle::new()?)
    }

    /// As [`bind`](Self::bind), with a handle that was there before: whoever has it, such as a
    /// signal handler, can end the daemon from the first moment on.
    ///
    /// # Errors
    /// As `bind`.
    pub fn bind_with(config: &Config, stop_handle: StopHandle) -> Result<Self, BindError> {
        if config.addresses.is_empty() {
            return Err(BindError::NoAddress);
        }
        let poll = Poll::new()?;
        let mut stop_source = StopSource::of(&stop_handle)?;
        poll.registry().register(stop_source.source(), STOP, mio::Interest::READABLE)?;
        let mut listeners = Vec::new();
        for (index, address) in config.addresses.iter().enumerate() {
            if config.addresses[..index].contains(address) {
                continue;
            }
            let mut listener = Listener::bind(address)?;
            listener.register(poll.registry(), Token(listeners.len()))?;
            listeners.push(listener);
        }
        for listener in &listeners {
            tracing::info!(address = %listener.address(), "listening");
        }
        let limit = config.max_connections.unwrap_or_else(room_for_connections);
        let connections = Connections::new(poll.registry().try_clone()?, FIRST_CONNECTION, limit);
        Ok(Self {
            poll,
            listeners,
            connections,
            registry: Registry::new(config.limits),
            held: Vec::new(),
            is_behind: false,
            stop_handle,
            stop_source,
            next_file_check: now() + FILE_CHECK,
        })
    }

    /// Where it listens; a port 0 has become the one that the system chose.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.listeners.iter().map(Listener::address)
    }

    /// Ends the daemon, from any thread.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        self.stop_handle.clone()
    }

    /// Serves until SHUTDOWN or [`StopHandle::stop`]. Then every reply that is owed is sent, as
    /// far as its peer takes it within 40 ms, and the socket files are removed.
    ///
    /// # Errors
    /// When the daemon can't serve any more.
    pub fn run(mut self) -> Result<(), RunError> {
        let mut events = Events::with_capacity(EVENTS_A_ROUND);
        let (mut asked, mut effects) = (Vec::new(), Vec::new());
        let end = loop {
            match self.round(&mut events, &mut asked, &mut effects) {
                Ok(Next::Round) => {}
                Ok(Next::Stop) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.finish(&mut events)?;
        end
    }

    fn round(
        &mut self,
        events: &mut Events,
        asked: &mut Vec<Asked>,
        effects: &mut Vec<Effect>,
    ) -> Result<Next, RunError> {
        self.wait(events, self.timeout(now()))?;
        let is_crowded = events.iter().count() >= EVENTS_A_ROUND;
        let mut next = self.mark(events);
        let now = now();

        self.connections.collect(asked, now);
        if self.answer_all(asked, effects) == Next::Stop {
            next = Next::Stop;
        }
        self.connections.flush();
        if next == Next::Stop {
            return Ok(next);
        }

        self.connections.expire(now);
        for listener in self.listeners.iter_mut().filter(|listener| listener.is_ready()) {
            // While it is full, and more connections may have closed than one poll can tell,
            // new ones wait for the next round.
            if !(is_crowded && self.connections.is_full()) {
                self.connections.accept(listener, now);
            }
        }
        self.connections.flush();
        self.check_files(now)?;
        Ok(next)
    }

    fn wait(&mut self, events: &mut Events, timeout: Duration) -> io::Result<()> {
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                Ok(())
            }
            result => result,
        }
    }

    /// How long the poll may sleep.
    fn timeout(&self, now: Instant) -> Duration {
        let waiting = self.listeners.iter().any(Listener::is_ready);
        if self.connections.has_turns()
            || self.is_behind
            || (waiting && !self.connections.is_pausing(now))
        {
            return Duration::ZERO;
        }
        let deadline = self.connections.next_deadline();
        let deadline = deadline.map_or(self.next_file_check, |at| at.min(self.next_file_check));
        deadline.saturating_duration_since(now)
    }

    fn mark(&mut self, events: &Events) -> Next {
        let mut next = Next::Round;
        for event in events {
            if event.token() == STOP {
                if self.stop_source.is_asked() {
                    tracing::info!("asked to stop");
                    next = Next::Stop;
                }
            } else if let Some(listener) = self.listeners.get_mut(event.token().0) {
                listener.mark_ready();
            } else {
                self.connections.mark(event);
            }
        }
        next
    }

    /// Answers what was held and what was asked, except what is asked by peers that must first
    /// read what they were sent, and what goes beyond a round's work.
    fn answer_all(&mut self, asked: &mut Vec<Asked>, effects: &mut Vec<Effect>) -> Next {
        let (mut next, mut work) = (Next::Round, 0);
        self.is_behind = false;
        let mut held_up = HashSet::new();
        for (from, body) in std::mem::take(&mut self.held).into_iter().chain(asked.drain(..)) {
            let connection = from.connection;
            let is_too_much = work >= BYTES_A_ROUND;
            // A peer's later requests stay behind its earlier ones.
            if is_too_much
                || held_up.contains(&connection)
                || self.connections.is_held_up(connection)
            {
                self.is_behind |= is_too_much;
                held_up.insert(connection);
                self.held.push((from, body));
                continue;
            }
            self.answer(from, body, effects);
            work += new_bytes(effects);
            if self.perform(effects) == Next::Stop {
                next = Next::Stop;
            }
        }
        next
    }

    /// Appends what a request leads to: at least one reply.
    fn answer(&mut self, from: ReplyTo, body: Body, effects: &mut Vec<Effect>) {
        let problem = match body {
            Body::Whole(bytes) => match DiscoveryRequest::from_bytes(&bytes) {
                Ok(request) => {
                    tracing::debug!(
                        connection = from.connection.0,
                        command = %request.command,
                        topic = request.topic_name,
                        "asked"
                    );
                    return self.registry.handle(Input::Request { from, request }, effects);
                }
                Err(error) => error.to_string(),
            },
            Body::TooLong { length } => {
                format!("it has {length} bytes, at most {MAX_BODY} are allowed")
            }
            Body::SeveralParts { count } => {
                format!("its body has {count} parts, and the protocol has one")
            }
        };
        let status = DiscoveryStatus::Error;
        let body = reply_bytes(status, &format!("Failed to parse request: {problem}"));
        tracing::debug!(connection = from.connection.0, problem, "asked what cannot be read");
        effects.push(Effect::Reply { to: from, status, body });
    }

    fn perform(&mut self, effects: &mut Vec<Effect>) -> Next {
        let mut next = Next::Round;
        for effect in effects.drain(..) {
            match effect {
                Effect::Changed(change) => log_change(&change),
                Effect::Reply { to, status, body } => {
                    let (connection, bytes) = (to.connection.0, body.len());
                    tracing::debug!(connection, %status, bytes, "answered");
                    self.connections.reply(&to, &body);
                }
                Effect::Stop => {
                    tracing::info!("shut down by a client");
                    next = Next::Stop;
                }
            }
        }
        next
    }

    fn check_files(&mut self, now: Instant) -> Result<(), RunError> {
        if now < self.next_file_check {
            return Ok(());
        }
        self.next_file_check = now + FILE_CHECK;
        match self.listeners.iter().find_map(Listener::lost_file) {
            Some(path) => Err(RunError::SocketLost(path.to_owned())),
            None => Ok(()),
        }
    }

    /// Gives peers a moment to take their last replies.
    fn finish(mut self, events: &mut Events) -> Result<(), RunError> {
        // First of all the socket files go, so that clients turn to the next daemon.
        self.listeners.clear();
        let deadline = now() + LAST_REPLIES;
        while !self.connections.all_sent() {
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                tracing::warn!("some peers did not take their last replies");
                break;
            }
            self.wait(events, left)?;
            self.mark(events);
            self.connections.flush();
        }
        self.connections.discard_input();
        let counters = self.connections.counters();
        tracing::info!(
            topics = self.registry.topic_count(),
            connections = counters.accepted,
            refused = counters.refused,
            violations = counters.violations,
            requests = counters.requests,
            dropped = counters.dropped,
            "stopped"
        );
        Ok(())
    }
}

/// The bytes that were made for these replies; those that many peers share count for nothing.
fn new_bytes(effects: &[Effect]) -> usize {
    let bytes = |effect: &Effect| match effect {
        Effect::Reply { body, .. } if Arc::strong_count(body) == 1 => body.len(),
        Effect::Reply { .. } | Effect::Changed(_) | Effect::Stop => 0,
    };
    effects.iter().map(bytes).sum()
}

fn log_change(change: &Change) {
    match change {
        Change::Registered(info) => log_entry("registered", info),
        Change::Updated(info) => log_entry("updated", info),
        Change::Unregistered(name) => tracing::info!(topic = name.as_str(), "unregistered"),
    }
}

fn log_entry(what: &str, info: &TopicInfo) {
    tracing::info!(
        topic = info.name.as_str(),
        node = info.publisher_node,
        address = info.address,
        message_type = info.message_type,
        fingerprint = format_args!("{:#018x}", info.fingerprint),
        "{what}"
    );
}
