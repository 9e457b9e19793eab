//! The processes that own topics, each held by a pidfd that tells when it ends.
//!
//! A pidfd becomes readable when the last thread of its process has ended. By then the kernel has
//! closed the process's descriptors: an endpoint that still answers is held by somebody else. It
//! needs no parent to reap the process, so that a zombie counts as gone.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry as PollRegistry, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::tokens::Tokens;
use crate::peer::Process;

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;

/// A start time that no process has.
const NO_START_TIME: u64 = u64::MAX;

/// The processes that are watched, one pidfd for all topics of a process.
#[derive(Debug)]
pub(crate) struct Processes {
    poll_registry: PollRegistry,
    tokens: Tokens,
    limit: usize,
    pidfds: BTreeMap<Process, OwnedFd>,
    by_token: HashMap<Token, Process>,
}

/// What is known of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WatchOutcome {
    /// It runs, and [`Processes::take_exited`] will tell of its end.
    Alive,
    /// It has ended.
    Exited,
    /// It cannot be watched: no descriptor is to spare, or the system does not allow it or has no
    /// such thing. Whether it runs is unknown.
    Unseen,
}

/// The life of this machine and the space of pids that a [`Process`] belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// Another one after each boot.
    pub(crate) boot_id: Option<String>,
    /// The inode of the daemon's pid namespace.
    pub(crate) pid_namespace: Option<u64>,
}

/// Where this daemon runs, as far as the system tells.
pub(crate) fn host() -> Host {
    Host { boot_id: system::boot_id(), pid_namespace: system::pid_namespace() }
}

/// Why there is no pidfd of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PidfdError {
    Exited,
    Unseen,
}

impl Processes {
    /// Watches at most `limit` processes at once. `tokens` has room for every descriptor's number
    /// that the process can have; what has a higher one is unseen.
    pub(crate) fn new(poll_registry: PollRegistry, tokens: Range<usize>, limit: usize) -> Self {
        Self {
            poll_registry,
            tokens: Tokens::new(tokens),
            limit,
            pidfds: BTreeMap::new(),
            by_token: HashMap::new(),
        }
    }

    /// How many processes are watched.
    pub(crate) fn len(&self) -> usize {
        self.pidfds.len()
    }

    /// Which process has the pid now. One that has ended and left no trace gets a start time that
    /// no process has: [`watch`](Self::watch) calls it gone. `None` when it cannot be told.
    pub(crate) fn identify(&self, pid: u32) -> Option<Process> {
        let first = Process { pid, start_time: 0 };
        let last = Process { pid, start_time: NO_START_TIME };
        let mut known = self.pidfds.range(first..=last);
        if let Some((&process, _)) = known.find(|(_, pidfd)| !is_readable(pidfd)) {
            return Some(process);
        }
        match system::start_time(pid) {
            Some(start_time) => Some(Process { pid, start_time }),
            // A file that cannot be read is no proof: others' processes may be hidden.
            None if system::is_unused(pid) => Some(last),
            None => None,
        }
    }

    /// Watches a process. What was watched already stays so, and is told by
    /// [`take_exited`](Self::take_exited) also if this call has found it gone.
    pub(crate) fn watch(&mut self, process: Process) -> WatchOutcome {
        if let Some(pidfd) = self.pidfds.get(&process) {
            return if is_readable(pidfd) { WatchOutcome::Exited } else { WatchOutcome::Alive };
        }
        match open(process) {
            Ok(pidfd) => self.add(process, pidfd),
            Err(PidfdError::Exited) => WatchOutcome::Exited,
            Err(PidfdError::Unseen) => WatchOutcome::Unseen,
        }
    }

    /// Ends the watch, however many have asked for it.
    pub(crate) fn unwatch(&mut self, process: Process) {
        let Some(pidfd) = self.pidfds.remove(&process) else { return };
        if let Some(token) = self.tokens.of(&pidfd) {
            self.by_token.remove(&token);
        }
        if let Err(error) = self.poll_registry.deregister(&mut SourceFd(&pidfd.as_raw_fd())) {
            tracing::debug!(pid = process.pid, %error, "a pidfd was closed without being unwatched");
        }
    }

    /// What an event means: the end of a process, which is no longer watched from here on, or
    /// nothing.
    pub(crate) fn take_exited(&mut self, token: Token) -> Option<Process> {
        let process = *self.by_token.get(&token)?;
        let has_exited = self.pidfds.get(&process).is_some_and(is_readable);
        if !has_exited {
            return None;
        }
        self.unwatch(process);
        Some(process)
    }

    /// Whether the process has ended by now, watched or not. What cannot be told is no.
    pub(crate) fn has_exited(&self, process: Process) -> bool {
        match self.pidfds.get(&process) {
            Some(pidfd) => is_readable(pidfd),
            None => open(process).err() == Some(PidfdError::Exited),
        }
    }

    /// Whether a process that is watched has been killed and has not ended yet, which takes some
    /// time after `kill` has returned. Its end will be told.
    pub(crate) fn is_exiting(&self, process: Process) -> bool {
        self.pidfds.contains_key(&process) && system::is_exiting(process.pid)
    }

    /// Whether an event is for [`take_exited`](Self::take_exited).
    pub(crate) fn owns(&self, token: Token) -> bool {
        self.tokens.owns(token)
    }

    /// Takes a pidfd into the poll, as long as there is room.
    fn add(&mut self, process: Process, pidfd: OwnedFd) -> WatchOutcome {
        if self.pidfds.len() >= self.limit {
            return WatchOutcome::Unseen;
        }
        let Some(token) = self.tokens.of(&pidfd) else { return WatchOutcome::Unseen };
        let mut source = SourceFd(&pidfd.as_raw_fd());
        if let Err(error) = self.poll_registry.register(&mut source, token, Interest::READABLE) {
            tracing::debug!(pid = process.pid, %error, "a process cannot be watched");
            return WatchOutcome::Unseen;
        }
        self.by_token.insert(token, process);
        self.pidfds.insert(process, pidfd);
        WatchOutcome::Alive
    }
}

/// Opens a process by its pid. The start time is read while the pidfd holds the pid, and the
/// pidfd is asked last: if the process runs then, it was its own start time that was read.
fn open(process: Process) -> Result<OwnedFd, PidfdError> {
    let pidfd = system::pidfd(process.pid)?;
    let start_time = system::start_time(process.pid);
    if is_readable(&pidfd) {
        return Err(PidfdError::Exited);
    }
    match start_time {
        Some(start_time) if start_time == process.start_time => Ok(pidfd),
        Some(_) => Err(PidfdError::Exited),
        None => Err(PidfdError::Unseen),
    }
}

/// Whether a descriptor is readable now.
fn is_readable(descriptor: &impl AsFd) -> bool {
    let mut descriptors = [PollFd::new(descriptor, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut descriptors, Some(&at_once)).is_ok_and(|ready| ready > 0)
        && descriptors[0].revents().contains(PollFlags::IN)
}

#[cfg(target_os = "linux")]
mod system {
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::MetadataExt as _;

    use rustix::io::Errno;
    use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process};

    use super::PidfdError;

    fn parse_pid(pid: u32) -> Option<Pid> {
        i32::try_from(pid).ok().and_then(Pid::from_raw)
    }

    /// A pidfd of whatever process has the pid now.
    pub(super) fn pidfd(pid: u32) -> Result<OwnedFd, PidfdError> {
        let pid = parse_pid(pid).ok_or(PidfdError::Unseen)?;
        pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| match errno {
            // The last two, depending on the kernel: the number has become that of a thread.
            Errno::SRCH | Errno::INVAL | Errno::NOENT => PidfdError::Exited,
            _ => PidfdError::Unseen,
        })
    }

    /// Whether certainly no process has the pid.
    pub(super) fn is_unused(pid: u32) -> bool {
        parse_pid(pid).is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
    }

    pub(super) fn start_time(pid: u32) -> Option<u64> {
        parse_start_time(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Whether SIGKILL is pending for a process, or it is on its way out already.
    pub(super) fn is_exiting(pid: u32) -> bool {
        const EXITING: u64 = 0x4;
        let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        parse_stat_field(&stat, 9).is_some_and(|flags| flags & EXITING != 0)
            || has_pending_sigkill(&status)
    }

    /// Whether SIGKILL is among the pending signals that a `status` file tells of.
    pub(super) fn has_pending_sigkill(status: &str) -> bool {
        const SIGKILL: u64 = 1 << 8;
        let pending = |line: &str| {
            let mask = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"))?;
            u64::from_str_radix(mask.trim(), 16).ok()
        };
        status.lines().filter_map(pending).any(|mask| mask & SIGKILL != 0)
    }

    pub(super) fn parse_start_time(stat: &[u8]) -> Option<u64> {
        parse_stat_field(stat, 22)
    }

    /// A field of a `stat` file, counted from 1 and behind the second. That one is the program's
    /// name in parentheses, and may hold any byte: what follows its last parenthesis are fields 3
    /// and on.
    fn parse_stat_field(stat: &[u8], field: usize) -> Option<u64> {
        let end_of_name = stat.iter().rposition(|&byte| byte == b')')?;
        let mut fields =
            std::str::from_utf8(&stat[end_of_name + 1..]).ok()?.split_ascii_whitespace();
        fields.nth(field - 3)?.parse().ok()
    }

    pub(super) fn boot_id() -> Option<String> {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(text.trim().to_owned()).filter(|id| !id.is_empty())
    }

    pub(super) fn pid_namespace() -> Option<u64> {
        std::fs::metadata("/proc/self/ns/pid").ok().map(|namespace| namespace.ino())
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::os::fd::OwnedFd;

    use super::PidfdError;

    pub(super) fn pidfd(_pid: u32) -> Result<OwnedFd, PidfdError> {
        Err(PidfdError::Unseen)
    }

    pub(super) fn is_unused(_pid: u32) -> bool {
        false
    }

    pub(super) fn is_exiting(_pid: u32) -> bool {
        false
    }

    pub(super) fn start_time(_pid: u32) -> Option<u64> {
        None
    }

    pub(super) fn boot_id() -> Option<String> {
        None
    }

    pub(super) fn pid_namespace() -> Option<u64> {
        None
    }
}
