//! What the kernel reports of processes. Other systems report nothing.

#[cfg(target_os = "linux")]
pub(super) use linux::*;
#[cfg(not(target_os = "linux"))]
pub(super) use other::*;

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::MetadataExt as _;

    use rustix::io::Errno;
    use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process};

    use crate::edge::processes::stat::{PidfdError, Stat, StatError};

    fn parse_pid(pid: u32) -> Option<Pid> {
        i32::try_from(pid).ok().and_then(Pid::from_raw)
    }

    /// A pidfd of the process that has the pid now.
    pub(in super::super) fn pidfd(pid: u32) -> Result<OwnedFd, PidfdError> {
        let pid = parse_pid(pid).ok_or(PidfdError::Unavailable)?;
        pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| match errno {
            // INVAL or NOENT, depending on the kernel: the number is now that of a thread.
            Errno::SRCH | Errno::INVAL | Errno::NOENT => PidfdError::Exited,
            _ => PidfdError::Unavailable,
        })
    }

    /// Whether certainly no process has the pid.
    pub(in super::super) fn is_unused(pid: u32) -> bool {
        parse_pid(pid).is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
    }

    /// Whether certainly some process has the pid, of whatever user.
    pub(in super::super) fn is_used(pid: u32) -> bool {
        parse_pid(pid)
            .is_some_and(|pid| matches!(test_kill_process(pid), Ok(()) | Err(Errno::PERM)))
    }

    pub(in super::super) fn stat(pid: u32) -> Result<Stat, StatError> {
        let stat =
            std::fs::read(format!("/proc/{pid}/stat")).map_err(
                |error| match Errno::from_io_error(&error) {
                    Some(Errno::NOENT | Errno::SRCH | Errno::ACCESS | Errno::PERM) => {
                        StatError::Hidden
                    }
                    _ => StatError::Failure,
                },
            )?;
        parse_stat(&stat).ok_or(StatError::Failure)
    }

    /// Whether SIGKILL is pending for a process, or the kernel is already ending it.
    pub(in super::super) fn is_exiting(pid: u32) -> bool {
        const EXITING: u64 = 0x4;
        let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let flags: Option<u64> = stat_field(&stat, 9).and_then(|flags| flags.parse().ok());
        flags.is_some_and(|flags| flags & EXITING != 0) || has_pending_sigkill(&status)
    }

    /// Whether SIGKILL is among the pending signals in a `status` file.
    pub(in super::super) fn has_pending_sigkill(status: &str) -> bool {
        const SIGKILL: u64 = 1 << 8;
        let pending = |line: &str| {
            let mask = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"))?;
            u64::from_str_radix(mask.trim(), 16).ok()
        };
        status.lines().filter_map(pending).any(|mask| mask & SIGKILL != 0)
    }

    /// A process's first thread may end before the others: then the state is that of a zombie, and
    /// the process still runs.
    pub(in super::super) fn parse_stat(stat: &[u8]) -> Option<Stat> {
        let threads: u64 = stat_field(stat, 20)?.parse().ok()?;
        let has_ended = matches!(stat_field(stat, 3)?, "Z" | "X" | "x");
        let start_time = stat_field(stat, 22)?.parse().ok()?;
        Some(Stat { start_time, is_zombie: has_ended && threads <= 1 })
    }

    /// A field of a `stat` file, from field 3 on; fields count from 1. Field 2 is the program's
    /// name in parentheses and may contain any byte, so field 3 follows the last parenthesis.
    fn stat_field(stat: &[u8], field: usize) -> Option<&str> {
        let end_of_name = stat.iter().rposition(|&byte| byte == b')')?;
        let mut fields =
            std::str::from_utf8(&stat[end_of_name + 1..]).ok()?.split_ascii_whitespace();
        fields.nth(field - 3)
    }

    /// The inode of a process's `net/tcp`: two processes have the same one when they share a
    /// network namespace. Processes of other users may read it, unlike the namespace itself.
    pub(in super::super) fn network(process: &str) -> Option<u64> {
        std::fs::metadata(format!("/proc/{process}/net/tcp")).ok().map(|file| file.ino())
    }

    pub(in super::super) fn boot_id() -> Option<String> {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(text.trim().to_owned()).filter(|id| !id.is_empty())
    }

    pub(in super::super) fn pid_namespace() -> Option<u64> {
        std::fs::metadata("/proc/self/ns/pid").ok().map(|namespace| namespace.ino())
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use std::os::fd::OwnedFd;

    use crate::edge::processes::stat::{PidfdError, Stat, StatError};

    pub(in super::super) fn pidfd(_pid: u32) -> Result<OwnedFd, PidfdError> {
        Err(PidfdError::Unavailable)
    }

    pub(in super::super) fn is_unused(_pid: u32) -> bool {
        false
    }

    pub(in super::super) fn is_used(_pid: u32) -> bool {
        false
    }

    pub(in super::super) fn is_exiting(_pid: u32) -> bool {
        false
    }

    pub(in super::super) fn stat(_pid: u32) -> Result<Stat, StatError> {
        Err(StatError::Hidden)
    }

    pub(in super::super) fn network(_process: &str) -> Option<u64> {
        None
    }

    pub(in super::super) fn boot_id() -> Option<String> {
        None
    }

    pub(in super::super) fn pid_namespace() -> Option<u64> {
        None
    }
}
