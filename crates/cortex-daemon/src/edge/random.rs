//! Numbers that nobody has had before.

use std::hash::{BuildHasher as _, RandomState};

/// A random number: the standard library's hash keys come from the system's source.
pub(crate) fn random_u64() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
