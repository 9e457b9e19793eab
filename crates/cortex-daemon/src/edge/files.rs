//! File identity and file names, for the socket file and the state file.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Stat, fstat};

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

/// Tells a file from all others, also from later ones: a file system gives the inode of a deleted
/// file to the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FileOrigin {
    pub(super) device: u64,
    pub(super) inode: u64,
    /// When the file was created, in ns since 1970; 0 where the system does not say it.
    pub(super) born_ns: u64,
}

impl FileOrigin {
    pub(super) fn of(file: impl AsFd) -> rustix::io::Result<Self> {
        let FileIdentity { device, inode } = FileIdentity::of(&fstat(&file)?);
        Ok(Self { device, inode, born_ns: born_ns(file).unwrap_or_default() })
    }
}

#[cfg(target_os = "linux")]
fn born_ns(file: impl AsFd) -> Option<u64> {
    use rustix::fs::{AtFlags, StatxFlags, statx};

    let stat = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok()?;
    let is_known = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    let seconds = u64::try_from(stat.stx_btime.tv_sec).ok().filter(|_| is_known)?;
    Some(seconds.wrapping_mul(1_000_000_000).wrapping_add(stat.stx_btime.tv_nsec.into()))
}

#[cfg(not(target_os = "linux"))]
fn born_ns(_file: impl AsFd) -> Option<u64> {
    None
}

pub(super) fn remove_if_present(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn with_suffix(name: &OsStr, suffix: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(suffix);
    name
}
