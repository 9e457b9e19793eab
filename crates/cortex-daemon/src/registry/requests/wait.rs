//! WAIT.

use std::time::Duration;

use cortex_proto::{DiscoveryRequest, MAX_WAIT_MS, RequestExt, TopicName};

use super::decision::Decision;
use super::lookup::non_empty;
use crate::registry::answer::Answer;
use crate::registry::directory::Directory;
use crate::registry::input::Timestamp;
use crate::registry::subscriptions::waiters::WakeCondition;
use crate::registry::view::View;

/// A WAIT is a LOOKUP that may be parked until the topic is registered.
pub(super) fn wait(
    directory: &Directory,
    view: View,
    request: &DiscoveryRequest,
    now: Timestamp,
) -> Decision {
    let Some(name) = non_empty(request.topic_name.as_deref()) else {
        return Answer::error("Missing topic_name in wait request").into();
    };
    if let Some(entry) = directory.find(name, view) {
        return Answer::described(entry, now.unix_ms).into();
    }
    let wait = longest_wait(request.ext.as_ref());
    if wait.is_zero() {
        return Answer::not_found(name).into();
    }
    match TopicName::new(name) {
        Ok(name) => Decision::Parked { condition: WakeCondition::Topic(name), wait },
        Err(problem) => Answer::error(format!("No such topic can be waited for: {problem}")).into(),
    }
}

/// How long a request may be parked.
pub(super) fn longest_wait(ext: Option<&RequestExt>) -> Duration {
    let asked = ext.and_then(|ext| ext.wait_ms).unwrap_or(MAX_WAIT_MS);
    Duration::from_millis(asked.min(MAX_WAIT_MS))
}
