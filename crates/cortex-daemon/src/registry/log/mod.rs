//! What has changed: events, revisions, and what must be stored.

pub(super) mod history;
pub(super) mod record;
pub(super) mod staging;
