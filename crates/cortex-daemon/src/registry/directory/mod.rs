//! The topics, who owns them, and who may change them.

pub(super) mod access;
pub(super) mod owners;
pub(super) mod sessions;
pub(super) mod topics;
