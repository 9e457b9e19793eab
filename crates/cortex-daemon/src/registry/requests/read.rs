//! PING, LOOKUP, LIST and WAIT.

use std::sync::Arc;
use std::time::Duration;

use cortex_proto::{DiscoveryRequest, MAX_WAIT_MS, RequestExt, TopicName};

use super::decision::Decision;
use crate::registry::answer::Answer;
use crate::registry::directory::Directory;
use crate::registry::input::Timestamp;
use crate::registry::registrations::Registrations;
use crate::registry::subscriptions::waiters::WakeCondition;

pub(super) fn ping(registrations: &Registrations) -> Answer {
    Answer::Pong {
        revision: registrations.log.position().revision,
        topics: registrations.directory.len() as u64,
    }
}

pub(super) fn lookup(directory: &Directory, request: &DiscoveryRequest, now: Timestamp) -> Answer {
    let Some(name) = non_empty(request.topic_name.as_deref()) else {
        return Answer::error("Missing topic_name in lookup request");
    };
    match directory.get(name) {
        None => Answer::not_found(name),
        Some(entry) if request.wants_ext() => Answer::described(entry, now.unix_ms),
        Some(entry) => Answer::Found { packed: Arc::clone(&entry.packed), entry: None },
    }
}

pub(super) fn list(
    directory: &mut Directory,
    request: &DiscoveryRequest,
    now: Timestamp,
) -> Answer {
    let topics = directory.list();
    let describe = || directory.iter().map(|entry| entry.describe(now.unix_ms)).collect();
    Answer::List { topics, entries: request.wants_ext().then(describe) }
}

/// A WAIT is a LOOKUP that may be parked until the topic is registered.
pub(super) fn wait(directory: &Directory, request: &DiscoveryRequest, now: Timestamp) -> Decision {
    let Some(name) = non_empty(request.topic_name.as_deref()) else {
        return Answer::error("Missing topic_name in wait request").into();
    };
    if let Some(entry) = directory.get(name) {
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

/// The reference takes an empty name for a missing one.
pub(super) fn non_empty(name: Option<&str>) -> Option<&str> {
    name.filter(|name| !name.is_empty())
}
