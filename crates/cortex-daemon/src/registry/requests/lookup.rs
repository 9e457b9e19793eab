//! LOOKUP.

use std::sync::Arc;

use cortex_proto::DiscoveryRequest;

use crate::registry::answer::Answer;
use crate::registry::directory::Directory;
use crate::registry::input::Timestamp;
use crate::registry::view::View;

pub(super) fn lookup(
    directory: &Directory,
    view: View,
    request: &DiscoveryRequest,
    now: Timestamp,
) -> Answer {
    let Some(name) = non_empty(request.topic_name.as_deref()) else {
        return Answer::error("Missing topic_name in lookup request");
    };
    match directory.find(name, view) {
        None => Answer::not_found(name),
        Some(entry) if request.wants_ext() => Answer::described(entry, now.unix_ms),
        Some(entry) => Answer::Found { packed: Arc::clone(&entry.packed), entry: None },
    }
}

/// The reference takes an empty name for a missing one.
pub(super) fn non_empty(name: Option<&str>) -> Option<&str> {
    name.filter(|name| !name.is_empty())
}
