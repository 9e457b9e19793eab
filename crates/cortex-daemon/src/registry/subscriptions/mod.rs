//! Requests whose replies wait for a change.

pub(super) mod waiters;
pub(super) mod watches;
