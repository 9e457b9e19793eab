//! The system's database of users.

use std::path::PathBuf;

use nix::unistd::{Uid, User};

/// A user, in a sentence: its number, and its name if it has one.
pub(crate) fn describe(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("user {uid} ({})", user.name),
        _ => format!("user {uid}"),
    }
}

/// The home directory that the database gives for a user.
pub(crate) fn home(uid: u32) -> Option<PathBuf> {
    User::from_uid(Uid::from_raw(uid)).ok()?.map(|user| user.dir)
}
