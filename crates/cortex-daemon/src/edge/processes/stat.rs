//! What the kernel may report of a process, and why not.

/// Why the daemon has no pidfd of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PidfdError {
    /// No process has the pid.
    Exited,
    /// The daemon lacks a descriptor or the permission, or the system has no pidfds.
    Unavailable,
}

/// What `/proc/PID/stat` says of the process that has the pid now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) start_time: u64,
    /// Whether all threads have ended, and only the exit status is left.
    pub(super) is_zombie: bool,
}

/// Why `/proc/PID/stat` could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatError {
    /// The file is missing or forbidden: no process has the pid, or `/proc` hides it.
    Hidden,
    /// Reading failed, for example for lack of a descriptor.
    Failure,
}
