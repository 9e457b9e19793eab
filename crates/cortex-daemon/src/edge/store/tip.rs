//! The tip file: the epoch and the revision of the last commit, beside the state file.
//!
//! A copy of the state file that someone puts back knows less than the daemon has told its clients.
//! The tip shows it. The store writes it after each commit and before the replies, so the tip is
//! never ahead of its state file. It may be behind: a daemon that is killed between the two has
//! sent no reply.
//!
//! The file holds one line of a fixed length, and each write replaces it in one call. It also names
//! its own origin, and each start makes a new file, so that a tip put back with its state file shows
//! as well.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::{pread, pwrite};

use super::database::Content;
use crate::edge::files::{FileOrigin, remove_if_present};
use crate::edge::state_file::{StoreError, beside, failed, open_checked};

/// The first word of each tip file, with the version of its format.
const FORMAT: &str = "cortex-tip-1";
const LENGTH: usize = FORMAT.len() + 5 * (1 + 16) + 1;

/// A position in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tip {
    pub(super) epoch: u64,
    pub(super) revision: u64,
}

impl Tip {
    pub(super) fn of(content: &Content) -> Self {
        Self { epoch: content.snapshot.epoch, revision: content.snapshot.revision }
    }
}

/// What the tip file of a state file holds at a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FoundTip {
    Missing,
    /// The content is not that of a tip file.
    Unreadable,
    /// The tip was written to another file, of which this one is a copy.
    Copied,
    Tip(Tip),
}

/// Writes the tip of a state file.
///
/// A commit stays valid when its tip cannot be written. Then the file is removed: with an old tip
/// the next daemon would not notice a copy. Without one it starts a new epoch.
#[derive(Debug)]
pub(super) struct TipFile {
    path: PathBuf,
    /// `None` until the file exists.
    open: Option<(OwnedFd, FileOrigin)>,
    is_failing: bool,
}

impl TipFile {
    /// Opens the tip file of a state file, if it exists.
    pub(super) fn open(state: &Path) -> Result<(Self, FoundTip), StoreError> {
        let path = beside(state, "-tip");
        let missing = |path| Self { path, open: None, is_failing: false };
        let descriptor = match open_checked(&path, OFlags::empty()) {
            Err(StoreError::System { reason, .. }) if reason.kind() == io::ErrorKind::NotFound => {
                return Ok((missing(path), FoundTip::Missing));
            }
            opened => opened?,
        };
        let what = "read the tip file";
        let origin = FileOrigin::of(&descriptor).map_err(failed(what, &path))?;
        let mut line = [0; LENGTH + 1];
        let length = pread(&descriptor, &mut line, 0).map_err(failed(what, &path))?;
        let found = match parse(&line[..length]) {
            None => FoundTip::Unreadable,
            Some((_, written_to)) if written_to != origin => FoundTip::Copied,
            Some((tip, _)) => FoundTip::Tip(tip),
        };
        Ok((Self { open: Some((descriptor, origin)), ..missing(path) }, found))
    }

    /// Replaces the file by a new one. If that fails, the old one stays in use.
    pub(super) fn renew(&mut self, tip: Tip) {
        match self.create(tip) {
            Ok(()) => {}
            Err(error) if self.open.is_some() => {
                tracing::debug!(path = %self.path.display(), %error, "cannot renew the tip file");
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Writes the tip of a commit.
    pub(super) fn write(&mut self, tip: Tip) {
        let written = match &self.open {
            Some((descriptor, origin)) => write_line(descriptor, tip, *origin),
            None => self.create(tip),
        };
        match written {
            Ok(()) => self.is_failing = false,
            Err(error) => self.fail(&error),
        }
    }

    fn create(&mut self, tip: Tip) -> io::Result<()> {
        let new = beside(&self.path, ".new");
        remove_if_present(&new)?;
        let created = open_checked(&new, OFlags::CREATE | OFlags::EXCL);
        let descriptor = created.map_err(io::Error::other)?;
        let origin = FileOrigin::of(&descriptor)?;
        write_line(&descriptor, tip, origin)?;
        std::fs::rename(&new, &self.path)?;
        self.open = Some((descriptor, origin));
        Ok(())
    }

    fn fail(&mut self, error: &io::Error) {
        self.open = None;
        let removed = remove_if_present(&self.path);
        if std::mem::replace(&mut self.is_failing, true) {
            return;
        }
        let path = self.path.display();
        tracing::warn!(%path, %error, "cannot write the tip file: after a restart a new history begins");
        if let Err(error) = removed {
            tracing::warn!(%path, %error, "cannot remove the tip file");
        }
    }
}

fn write_line(file: &OwnedFd, tip: Tip, origin: FileOrigin) -> io::Result<()> {
    let line = line(tip, origin);
    if pwrite(file, line.as_bytes(), 0)? == line.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

fn line(tip: Tip, origin: FileOrigin) -> String {
    let Tip { epoch, revision } = tip;
    let FileOrigin { device, inode, born_ns } = origin;
    format!("{FORMAT} {epoch:016x} {revision:016x} {device:016x} {inode:016x} {born_ns:016x}\n")
}

fn parse(content: &[u8]) -> Option<(Tip, FileOrigin)> {
    let text = std::str::from_utf8(content).ok()?;
    let numbers = text.strip_prefix(FORMAT)?.split_ascii_whitespace();
    let numbers: Vec<_> =
        numbers.map(|word| u64::from_str_radix(word, 16)).collect::<Result<_, _>>().ok()?;
    let [epoch, revision, device, inode, born_ns] = numbers[..] else { return None };
    let (tip, origin) = (Tip { epoch, revision }, FileOrigin { device, inode, born_ns });
    // Nothing but the line itself is valid, so that a cut one is not.
    (line(tip, origin) == text).then_some((tip, origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIP: Tip = Tip { epoch: 7, revision: u64::MAX };
    const ORIGIN: FileOrigin = FileOrigin { device: 1, inode: 2, born_ns: 3 };

    #[test]
    fn a_line_has_a_fixed_length_and_is_read_back() {
        for tip in [TIP, Tip { epoch: u64::MAX, revision: 0 }] {
            let line = line(tip, ORIGIN);
            assert_eq!(line.len(), LENGTH, "{line}");
            assert_eq!(parse(line.as_bytes()), Some((tip, ORIGIN)));
        }
    }

    #[test]
    fn nothing_but_a_whole_line_is_a_tip() {
        let line = line(TIP, ORIGIN);
        for end in 0..line.len() {
            assert_eq!(parse(&line.as_bytes()[..end]), None, "{end}");
        }
        for other in [
            format!("{line} "),
            line.to_uppercase(),
            line.replace("tip-1", "tip-2"),
            "\0".repeat(98),
        ] {
            assert_eq!(parse(other.as_bytes()), None, "{other}");
        }
    }
}
