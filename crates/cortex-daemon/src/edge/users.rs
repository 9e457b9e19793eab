//! The system's database of users.

use nix::unistd::{Uid, User};

/// A user, in a sentence: its number, and its name if it has one.
pub(crate) fn describe(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("user {uid} ({})", user.name),
        _ => format!("user {uid}"),
    }
}
