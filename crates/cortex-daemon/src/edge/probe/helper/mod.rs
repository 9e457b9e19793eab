//! The process in which everything runs that may hang: look-ups of paths, connections to Unix
//! sockets with paths, and the resolution of host names.
//!
//! A thread would not do: while it hangs in a file system that does not answer, the kernel cannot
//! end its process. The daemon kills a helper that hangs, does not wait for its end, and starts
//! another. When that happens often, it pauses.

#[cfg(test)]
pub(super) mod fake;
mod launch;
mod message;
mod serve;

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Child;
use std::time::{Duration, Instant};

use mio::net::UnixStream;
use mio::{Interest, Registry as PollRegistry, Token};

pub(super) use self::launch::{Launch, Program};
use self::message::take_message;
pub(super) use self::message::{Report, Task};
pub use self::serve::serve_probe_helper;
use super::outcome::ProbeId;
use crate::edge::tokens::Tokens;

/// The most helpers to lose within [`LOSS_WINDOW`] before a pause.
const MAX_LOSSES: usize = 5;
const LOSS_WINDOW: Duration = Duration::from_secs(60);
/// How long no helper is started after too many losses.
const PAUSE: Duration = Duration::from_secs(60);

/// A helper process, started when it is needed.
#[derive(Debug)]
pub(super) struct Helper {
    /// What it does, for the log.
    purpose: &'static str,
    launch: Option<Box<dyn Launch>>,
    connection: Option<HelperConnection>,
    last_report: Option<Instant>,
    /// When helpers were lost, oldest first.
    losses: VecDeque<Instant>,
    paused_until: Option<Instant>,
    has_warned: bool,
    /// Killed processes that have not ended yet.
    ending: Vec<Child>,
}

#[derive(Debug)]
struct HelperConnection {
    stream: UnixStream,
    token: Token,
    child: Option<Child>,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// No helper can be had now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unavailable;

/// The helper has ended, or sent nonsense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HelperLost;

impl Helper {
    /// `None`: the daemon has no program that it could start as a helper.
    pub(super) fn new(purpose: &'static str, launch: Option<Box<dyn Launch>>) -> Self {
        Self {
            purpose,
            launch,
            connection: None,
            last_report: None,
            losses: VecDeque::new(),
            paused_until: None,
            has_warned: false,
            ending: Vec::new(),
        }
    }

    /// The token of its socket.
    pub(super) fn token(&self) -> Option<Token> {
        self.connection.as_ref().map(|connection| connection.token)
    }

    /// Gives the helper a task, and starts it if it does not run.
    pub(super) fn send(
        &mut self,
        id: ProbeId,
        task: &Task,
        now: Instant,
        poll: (&PollRegistry, &Tokens),
    ) -> Result<(), Unavailable> {
        if self.paused_until.is_some_and(|until| now < until) {
            return Err(Unavailable);
        }
        self.paused_until = None;
        if self.connection.is_none() {
            self.connection = Some(self.start(poll, now)?);
        }
        let Some(connection) = &mut self.connection else { return Err(Unavailable) };
        task.encode(id, &mut connection.output);
        // An error shows when the daemon reads.
        let _ = connection.flush();
        Ok(())
    }

    /// Sends what has not been sent yet, and appends the reports that have arrived.
    pub(super) fn receive(
        &mut self,
        out: &mut Vec<(ProbeId, Report)>,
        now: Instant,
    ) -> Result<(), HelperLost> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        connection.flush().map_err(|_| HelperLost)?;
        let read = connection.read();
        while let Some(message) = take_message(&mut connection.input).map_err(|_| HelperLost)? {
            out.push(Report::decode(&message).ok_or(HelperLost)?);
            self.last_report = Some(now);
        }
        read.map_err(|_| HelperLost)
    }

    /// When it reported last.
    pub(super) fn last_report(&self) -> Option<Instant> {
        self.last_report
    }

    /// Gives the helper up, because it hangs or has ended. The next task starts another one, unless
    /// this happens too often.
    pub(super) fn give_up(&mut self, now: Instant) {
        let Some(connection) = self.connection.take() else { return };
        self.ending.extend(connection.kill());
        let purpose = self.purpose;
        if !self.pauses_after_loss(now) {
            tracing::warn!(purpose, "the probe helper hangs or has ended: it is replaced");
        }
    }

    /// Counts a loss, and pauses after too many.
    fn pauses_after_loss(&mut self, now: Instant) -> bool {
        self.losses.retain(|&at| now.saturating_duration_since(at) < LOSS_WINDOW);
        self.losses.push_back(now);
        if self.losses.len() < MAX_LOSSES {
            return false;
        }
        self.losses.clear();
        self.paused_until = Some(now + PAUSE);
        tracing::warn!(
            purpose = self.purpose,
            pause = ?PAUSE,
            "the probe helper fails again and again: the daemon pauses such probes, and cannot \
             judge their endpoints"
        );
        true
    }

    fn start(
        &mut self,
        (registry, tokens): (&PollRegistry, &Tokens),
        now: Instant,
    ) -> Result<HelperConnection, Unavailable> {
        self.ending.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        let purpose = self.purpose;
        let Some(launch) = &self.launch else {
            if !std::mem::replace(&mut self.has_warned, true) {
                tracing::warn!(
                    purpose,
                    "the daemon has no probe helper: it cannot judge such endpoints"
                );
            }
            return Err(Unavailable);
        };
        match HelperConnection::start(launch.as_ref(), registry, tokens) {
            Ok(connection) => {
                self.has_warned = false;
                Ok(connection)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.has_warned, true) {
                    tracing::warn!(purpose, %error, "cannot start a probe helper");
                }
                self.pauses_after_loss(now);
                Err(Unavailable)
            }
        }
    }
}

/// The daemon may end while a helper hangs: it does not wait.
impl Drop for Helper {
    fn drop(&mut self) {
        let ended = self.connection.take().and_then(HelperConnection::kill);
        for mut child in self.ending.drain(..).chain(ended) {
            let _ = child.try_wait();
        }
    }
}

impl HelperConnection {
    fn start(launch: &dyn Launch, registry: &PollRegistry, tokens: &Tokens) -> io::Result<Self> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut stream = UnixStream::from_std(ours);
        let token = tokens.of(&stream).ok_or(io::ErrorKind::Unsupported)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let child = launch.launch(theirs)?;
        Ok(Self { stream, token, child, input: Vec::new(), output: Vec::new() })
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => {
                    self.output.drain(..count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads until nothing is left; the end of the stream is an error.
    fn read(&mut self) -> io::Result<()> {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn kill(self) -> Option<Child> {
        let mut child = self.child?;
        // It may have ended already.
        let _ = child.kill();
        Some(child)
    }
}
