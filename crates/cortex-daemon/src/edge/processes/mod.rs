//! The processes that own topics. The poll watches a pidfd of each.
//!
//! A pidfd becomes readable when the last thread of its process has exited. Before that the kernel
//! has closed the process's descriptors: if its endpoint still answers, another process has the
//! socket. A zombie, which its parent has not reaped, counts as exited.
//!
//! Where the daemon cannot have a pidfd, because it has no free descriptor, the system has no
//! pidfds or a sandbox forbids them, it reads the process's start time once a second. `/proc` may
//! hide the processes of other users: a missing entry counts as an exit only if the kernel also says
//! that no process has the pid.

mod polled;
mod stat;
mod system;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry as PollRegistry, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::polled::PolledProcesses;
use self::stat::{PidfdError, StatError};
use super::tokens::Tokens;
use crate::peer::Process;

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;

/// A start time that no process has.
const NO_START_TIME: u64 = u64::MAX;
/// The start time of all processes whose start time `/proc` hides. Such a process is known by its
/// pidfd, or else only by its pid.
const HIDDEN_START_TIME: u64 = u64::MAX - 1;

/// The watched processes. All topics of a process share one watch.
#[derive(Debug)]
pub(crate) struct Processes {
    poll_registry: PollRegistry,
    tokens: Tokens,
    limit: usize,
    open_pidfd: fn(u32) -> Result<OwnedFd, PidfdError>,
    pidfds: BTreeMap<Process, OwnedFd>,
    by_token: HashMap<Token, Process>,
    polled: PolledProcesses,
    /// The daemon's network namespace; `None` if unknown.
    network: Option<u64>,
}

/// The result of [`Processes::watch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WatchOutcome {
    /// The process runs. [`Processes::take_exited`] or [`Processes::poll`] will report its exit.
    Alive,
    /// The process has exited.
    Exited,
    /// The daemon cannot watch the process: it belongs to another pid namespace, or nothing about
    /// it is readable. The process may run or not.
    Unseen,
}

/// The boot and the pid namespace in which a [`Process`] has its pid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// A new id after each boot.
    pub(crate) boot_id: Option<String>,
    /// The inode of the daemon's pid namespace.
    pub(crate) pid_namespace: Option<u64>,
}

/// The host of this daemon. Unknown parts are `None`.
pub(crate) fn host() -> Host {
    Host { boot_id: system::boot_id(), pid_namespace: system::pid_namespace() }
}

/// The process that has the pid now. If no process has it, the result has a start time that no
/// process has, and [`Processes::watch`] returns `Exited` for it. `None`: unknown.
pub(super) fn identify(pid: u32) -> Option<Process> {
    let start_time = match system::stat(pid) {
        Ok(stat) => stat.start_time,
        // A missing file proves nothing: /proc may hide processes of other users.
        Err(StatError::Hidden) if system::is_unused(pid) => NO_START_TIME,
        Err(StatError::Hidden) if system::is_used(pid) => HIDDEN_START_TIME,
        Err(StatError::Hidden | StatError::Failure) => return None,
    };
    Some(Process { pid, start_time })
}

/// As [`identify`], for a pid that may be outdated: a zombie also gets a start time that no process
/// has.
pub(super) fn identify_living(pid: u32) -> Option<Process> {
    match system::stat(pid) {
        Ok(stat) if stat.is_zombie => Some(Process { pid, start_time: NO_START_TIME }),
        _ => identify(pid),
    }
}

/// Whether a process has exited. `None`: unknown.
fn has_ended(process: Process) -> Option<bool> {
    let Process { pid, start_time } = process;
    match system::stat(pid) {
        Ok(stat) if stat.is_zombie => Some(true),
        Ok(stat) => Some(![stat.start_time, HIDDEN_START_TIME].contains(&start_time)),
        Err(_) if system::is_unused(pid) => Some(true),
        Err(_) if start_time == HIDDEN_START_TIME && system::is_used(pid) => Some(false),
        Err(_) => None,
    }
}

impl Processes {
    /// Has at most `limit` pidfds at once, and polls further processes. `tokens` needs a token for
    /// each possible descriptor number; a process whose pidfd has a higher number is polled.
    pub(crate) fn new(poll_registry: PollRegistry, tokens: Range<usize>, limit: usize) -> Self {
        Self {
            poll_registry,
            tokens: Tokens::new(tokens),
            limit,
            open_pidfd: system::pidfd,
            pidfds: BTreeMap::new(),
            by_token: HashMap::new(),
            polled: PolledProcesses::default(),
            network: system::network("self"),
        }
    }

    /// The number of watched processes.
    pub(crate) fn len(&self) -> usize {
        self.pidfds.len() + self.polled.len()
    }

    /// As the function [`identify`], which it spares for watched processes.
    pub(crate) fn identify(&self, pid: u32) -> Option<Process> {
        let all = Process { pid, start_time: 0 }..=Process { pid, start_time: NO_START_TIME };
        let mut known = self.pidfds.range(all);
        match known.find(|(_, pidfd)| !is_readable(pidfd)) {
            Some((&process, _)) => Some(process),
            None => identify(pid),
        }
    }

    /// Whether the process that has the pid is in the daemon's network namespace. False if unknown:
    /// then the daemon does not judge the process's loopback addresses, which may be those of
    /// another container.
    pub(crate) fn shares_network(&self, pid: u32) -> bool {
        self.network.is_some() && self.network == system::network(&pid.to_string())
    }

    /// Watches a process. If the process was watched before, its exit is reported even after this
    /// call has returned `Exited`.
    pub(crate) fn watch(&mut self, process: Process, now: Instant) -> WatchOutcome {
        if let Some(pidfd) = self.pidfds.get(&process) {
            return if is_readable(pidfd) { WatchOutcome::Exited } else { WatchOutcome::Alive };
        }
        match self.open(process) {
            Ok(pidfd) => {
                if self.add(process, pidfd) {
                    self.polled.remove(process);
                    return WatchOutcome::Alive;
                }
            }
            Err(PidfdError::Exited) => return WatchOutcome::Exited,
            Err(PidfdError::Unavailable) => {}
        }
        let is_pollable = match has_ended(process) {
            Some(true) => return WatchOutcome::Exited,
            Some(false) => true,
            // The daemon lacks a descriptor at this moment only.
            None => system::stat(process.pid) == Err(StatError::Failure),
        };
        if is_pollable && self.polled.add(process, now) {
            WatchOutcome::Alive
        } else {
            WatchOutcome::Unseen
        }
    }

    /// Ends the watch, regardless of how often [`watch`](Self::watch) was called.
    pub(crate) fn unwatch(&mut self, process: Process) {
        self.polled.remove(process);
        let Some(pidfd) = self.pidfds.remove(&process) else { return };
        if let Some(token) = self.tokens.of(&pidfd) {
            self.by_token.remove(&token);
        }
        if let Err(error) = self.poll_registry.deregister(&mut SourceFd(&pidfd.as_raw_fd())) {
            tracing::debug!(pid = process.pid, %error, "cannot remove a pidfd from the poll");
        }
    }

    /// The process that has exited, if the event is about an exit. Its watch ends with this call.
    pub(crate) fn take_exited(&mut self, token: Token) -> Option<Process> {
        let process = *self.by_token.get(&token)?;
        let has_exited = self.pidfds.get(&process).is_some_and(is_readable);
        if !has_exited {
            return None;
        }
        self.unwatch(process);
        Some(process)
    }

    /// Looks at the processes without a pidfd, when that is due, and returns those that have
    /// exited. Their watches end with this call. The others get a pidfd if that is possible now.
    pub(crate) fn poll(&mut self, now: Instant) -> Vec<Process> {
        let mut exited = Vec::new();
        for process in self.polled.take_round(now) {
            if has_ended(process) == Some(true) {
                self.polled.remove(process);
                exited.push(process);
            } else if self.pidfds.len() < self.limit
                && let Ok(pidfd) = self.open(process)
                && self.add(process, pidfd)
            {
                self.polled.remove(process);
            }
        }
        exited
    }

    /// When [`poll`](Self::poll) has work.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.polled.next_round()
    }

    /// Whether the process has exited, watched or not. False if unknown.
    pub(crate) fn has_exited(&self, process: Process) -> bool {
        match self.pidfds.get(&process) {
            Some(pidfd) => is_readable(pidfd),
            None => has_ended(process) == Some(true),
        }
    }

    /// Whether a watched process was killed and has not exited yet: this takes some time after
    /// `kill` has returned. Its exit will be reported soon.
    pub(crate) fn is_exiting(&mut self, process: Process, now: Instant) -> bool {
        let is_polled = self.polled.contains(process);
        if !(is_polled || self.pidfds.contains_key(&process)) || !system::is_exiting(process.pid) {
            return false;
        }
        if is_polled {
            self.polled.hurry(process, now);
        }
        true
    }

    /// Whether the token is one of a pidfd.
    pub(crate) fn owns(&self, token: Token) -> bool {
        self.tokens.owns(token)
    }

    /// Opens a pidfd. Checks the pidfd after reading the start time: if its process still runs, it
    /// had the pid all the time, and the start time is its own.
    fn open(&self, process: Process) -> Result<OwnedFd, PidfdError> {
        let pidfd = (self.open_pidfd)(process.pid)?;
        let stat = system::stat(process.pid);
        if is_readable(&pidfd) {
            return Err(PidfdError::Exited);
        }
        let is_hidden = process.start_time == HIDDEN_START_TIME;
        match stat {
            Ok(stat) if is_hidden || stat.start_time == process.start_time => Ok(pidfd),
            Ok(_) => Err(PidfdError::Exited),
            Err(StatError::Hidden) if is_hidden => Ok(pidfd),
            Err(_) => Err(PidfdError::Unavailable),
        }
    }

    /// Adds a pidfd to the poll. False: there are too many already, or the system refuses.
    fn add(&mut self, process: Process, pidfd: OwnedFd) -> bool {
        if self.pidfds.len() >= self.limit {
            return false;
        }
        let Some(token) = self.tokens.of(&pidfd) else { return false };
        let mut source = SourceFd(&pidfd.as_raw_fd());
        if let Err(error) = self.poll_registry.register(&mut source, token, Interest::READABLE) {
            tracing::debug!(pid = process.pid, %error, "cannot poll a pidfd");
            return false;
        }
        self.by_token.insert(token, process);
        self.pidfds.insert(process, pidfd);
        true
    }
}

/// Whether a descriptor is readable now.
fn is_readable(descriptor: &impl AsFd) -> bool {
    let mut descriptors = [PollFd::new(descriptor, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut descriptors, Some(&at_once)).is_ok_and(|ready| ready > 0)
        && descriptors[0].revents().contains(PollFlags::IN)
}
