//! File identity and file names, for the socket file and the state file.

use std::ffi::{OsStr, OsString};

use rustix::fs::Stat;

/// Identifies a file independently of its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    /// The identity of no file: inodes count from 1.
    pub(super) const NONE: Self = Self { device: 0, inode: 0 };

    #[allow(clippy::useless_conversion, reason = "the fields' types differ between systems")]
    pub(super) fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev.into(), inode: stat.st_ino.into() }
    }
}

pub(super) fn with_suffix(name: &OsStr, suffix: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(suffix);
    name
}
