//! Whether the stored history is the one that the last daemon left.

use thiserror::Error;

use super::database::Content;
use super::tip::{FoundTip, Tip};
use crate::edge::files::FileOrigin;

/// Why the stored history is not the one that the last daemon left. The topics may still be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum HistoryLoss {
    /// Some of its events are missing or unreadable, or the topics contradict them.
    #[error("events are missing or unreadable, or contradict the topics")]
    Gap,
    /// The file was copied after the last commit.
    #[error("the state file is a copy")]
    CopiedState,
    /// No tip file shows whether the state file has the last commit.
    #[error("its tip file is missing")]
    NoTip,
    /// The tip file has another content than the daemon wrote.
    #[error("its tip file is damaged")]
    DamagedTip,
    /// The tip file was copied after the last start.
    #[error("its tip file is a copy")]
    CopiedTip,
    /// The tip file was written in another epoch.
    #[error("its tip file belongs to another history")]
    OtherEpoch,
    /// The tip file was written after a commit that the state file lacks.
    #[error("the state file is older than its tip file")]
    Behind,
}

impl HistoryLoss {
    /// Looks for a loss in what a state file of this origin holds. A file of version 1 has no tip
    /// file, and does not name its origin.
    pub(super) fn find(content: &Content, origin: FileOrigin, found: FoundTip) -> Option<Self> {
        if !content.has_whole_history {
            return Some(Self::Gap);
        }
        if content.origin.is_some_and(|stored| stored != origin) {
            return Some(Self::CopiedState);
        }
        let stored = Tip::of(content);
        match found {
            FoundTip::Missing if content.origin.is_none() => None,
            FoundTip::Missing => Some(Self::NoTip),
            FoundTip::Unreadable => Some(Self::DamagedTip),
            FoundTip::Copied => Some(Self::CopiedTip),
            FoundTip::Tip(tip) if tip.epoch != stored.epoch => Some(Self::OtherEpoch),
            FoundTip::Tip(tip) if tip.revision > stored.revision => Some(Self::Behind),
            // Behind the state file: the daemon was killed before it wrote the tip.
            FoundTip::Tip(_) => None,
        }
    }
}
