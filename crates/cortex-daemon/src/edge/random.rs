//! Random numbers, for epochs and names of temporary files.

use std::hash::{BuildHasher as _, RandomState};

/// A random number from the standard library's hash keys, which come from the system.
pub(crate) fn random_u64() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
