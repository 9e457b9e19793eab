//! The processes that own topics. The poll watches a pidfd of each.
//!
//! A pidfd becomes readable when the last thread of its process has exited. Before that the kernel
//! has closed the process's descriptors: if its endpoint still answers, another process has the
//! socket. A zombie, which its parent has not reaped, counts as exited.

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

/// The watched processes. All topics of a process share one pidfd.
#[derive(Debug)]
pub(crate) struct Processes {
    poll_registry: PollRegistry,
    tokens: Tokens,
    limit: usize,
    pidfds: BTreeMap<Process, OwnedFd>,
    by_token: HashMap<Token, Process>,
}

/// The result of [`Processes::watch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WatchOutcome {
    /// The process runs. [`Processes::take_exited`] will report its exit.
    Alive,
    /// The process has exited.
    Exited,
    /// The daemon cannot watch the process: it has no free descriptor, no permission, or the system
    /// has no pidfds. The process may run or not.
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

/// Why the daemon cannot open a pidfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PidfdError {
    Exited,
    Unseen,
}

impl Processes {
    /// Watches at most `limit` processes at once. `tokens` needs a token for each possible
    /// descriptor number; a process whose pidfd has a higher number is unseen.
    pub(crate) fn new(poll_registry: PollRegistry, tokens: Range<usize>, limit: usize) -> Self {
        Self {
            poll_registry,
            tokens: Tokens::new(tokens),
            limit,
            pidfds: BTreeMap::new(),
            by_token: HashMap::new(),
        }
    }

    /// The number of watched processes.
    pub(crate) fn len(&self) -> usize {
        self.pidfds.len()
    }

    /// The process that has the pid now. If no process has it, the result has a start time that no
    /// process has, and [`watch`](Self::watch) returns `Exited` for it. `None`: unknown.
    pub(crate) fn identify(&self, pid: u32) -> Option<Process> {
        let first = Process { pid, start_time: 0 };
        let last = Process { pid, start_time: NO_START_TIME };
        let mut known = self.pidfds.range(first..=last);
        if let Some((&process, _)) = known.find(|(_, pidfd)| !is_readable(pidfd)) {
            return Some(process);
        }
        match system::start_time(pid) {
            Some(start_time) => Some(Process { pid, start_time }),
            // An unreadable file proves nothing: /proc may hide processes of other users.
            None if system::is_unused(pid) => Some(last),
            None => None,
        }
    }

    /// Watches a process. If the process was watched before, [`take_exited`](Self::take_exited)
    /// reports its exit even after this call has returned `Exited`.
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

    /// Ends the watch, regardless of how often [`watch`](Self::watch) was called.
    pub(crate) fn unwatch(&mut self, process: Process) {
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

    /// Whether the process has exited, watched or not. False if unknown.
    pub(crate) fn has_exited(&self, process: Process) -> bool {
        match self.pidfds.get(&process) {
            Some(pidfd) => is_readable(pidfd),
            None => open(process).err() == Some(PidfdError::Exited),
        }
    }

    /// Whether a watched process was killed and has not exited yet: this takes some time after
    /// `kill` has returned. [`take_exited`](Self::take_exited) will report the exit.
    pub(crate) fn is_exiting(&self, process: Process) -> bool {
        self.pidfds.contains_key(&process) && system::is_exiting(process.pid)
    }

    /// Whether the token is one of a pidfd.
    pub(crate) fn owns(&self, token: Token) -> bool {
        self.tokens.owns(token)
    }

    /// Adds a pidfd to the poll, up to the limit.
    fn add(&mut self, process: Process, pidfd: OwnedFd) -> WatchOutcome {
        if self.pidfds.len() >= self.limit {
            return WatchOutcome::Unseen;
        }
        let Some(token) = self.tokens.of(&pidfd) else { return WatchOutcome::Unseen };
        let mut source = SourceFd(&pidfd.as_raw_fd());
        if let Err(error) = self.poll_registry.register(&mut source, token, Interest::READABLE) {
            tracing::debug!(pid = process.pid, %error, "cannot watch a process");
            return WatchOutcome::Unseen;
        }
        self.by_token.insert(token, process);
        self.pidfds.insert(process, pidfd);
        WatchOutcome::Alive
    }
}

/// Opens a pidfd. Checks the pidfd after reading the start time: if its process still runs, it had
/// the pid all the time, and the start time is its own.
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

    /// A pidfd of the process that has the pid now.
    pub(super) fn pidfd(pid: u32) -> Result<OwnedFd, PidfdError> {
        let pid = parse_pid(pid).ok_or(PidfdError::Unseen)?;
        pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| match errno {
            // INVAL or NOENT, depending on the kernel: the number is now that of a thread.
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

    /// Whether SIGKILL is pending for a process, or the kernel is already ending it.
    pub(super) fn is_exiting(pid: u32) -> bool {
        const EXITING: u64 = 0x4;
        let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        parse_stat_field(&stat, 9).is_some_and(|flags| flags & EXITING != 0)
            || has_pending_sigkill(&status)
    }

    /// Whether SIGKILL is among the pending signals in a `status` file.
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

    /// A field of a `stat` file, from field 3 on; fields count from 1. Field 2 is the program's
    /// name in parentheses and may contain any byte, so field 3 follows the last parenthesis.
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
