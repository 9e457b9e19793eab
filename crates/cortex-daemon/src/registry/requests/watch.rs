//! WATCH.

use std::sync::Arc;

use cortex_proto::{DiscoveryRequest, RequestExt, Since, TopicFilter, TopicName};

use super::decision::Decision;
use super::wait::longest_wait;
use crate::registry::answer::{Answer, ErrorCause};
use crate::registry::directory::Directory;
use crate::registry::directory::topics::TopicList;
use crate::registry::log::Log;
use crate::registry::registrations::Registrations;
use crate::registry::reply_cache::ReplyCache;
use crate::registry::subscriptions::replies::{MAX_MATCH_COST, select_events, visit_cost};
use crate::registry::subscriptions::waiters::{WakeCondition, WatchSpec, passes};
use crate::registry::view::View;

/// The most events in a reply: a client that is further behind sends its next request.
const MAX_EVENTS: u64 = 1000;

/// Decides about a WATCH, and returns about how many steps that took.
pub(super) fn watch(
    registrations: &mut Registrations,
    view: View,
    cache: &mut ReplyCache,
    request: &DiscoveryRequest,
) -> (Decision, usize) {
    let no_ext = RequestExt::default();
    let ext = request.ext.as_ref().unwrap_or(&no_ext);
    let filter = match ext.filter.as_deref().map(TopicFilter::new).transpose() {
        Ok(filter) => filter.map(Arc::new),
        Err(problem) => return (Answer::error(format!("ext.filter: {problem}")).into(), 0),
    };
    let Registrations { directory, log, .. } = registrations;
    let position = log.position(view);
    let Some(since) = ext.since.and_then(|since| known_revision(log, position, since)) else {
        return match snapshot(directory, view, cache, position, filter) {
            Ok((topics, cost)) => (Answer::Snapshot { topics, position }.into(), cost),
            Err(TooCostly) => (too_costly().into(), 0),
        };
    };
    let limit = ext.limit.unwrap_or(MAX_EVENTS).clamp(1, MAX_EVENTS);
    let watch = WatchSpec { filter, limit: usize::try_from(limit).unwrap_or(usize::MAX) };
    let selection = select_events(log, view, &watch, since);
    let cost = selection.cost;
    let wait = longest_wait(Some(ext));
    let has_seen_all = selection.until == position.revision;
    if !selection.is_empty() || !has_seen_all || wait.is_zero() {
        return (Answer::Events(selection).into(), cost);
    }
    // From here on the watch has seen everything up to the present: its reply holds what wakes it,
    // and nothing else.
    (Decision::Parked { condition: WakeCondition::change(watch), wait }, cost)
}

/// The revision from which a watch can continue without a gap.
fn known_revision(log: &Log, position: Since, since: Since) -> Option<u64> {
    let is_known = since.epoch == position.epoch
        && log.history().between(since.revision, position.revision).is_some();
    is_known.then_some(since.revision)
}

/// The topics that pass a filter, and about how many steps it took to find them.
fn snapshot(
    directory: &mut Directory,
    view: View,
    cache: &mut ReplyCache,
    position: Since,
    filter: Option<Arc<TopicFilter>>,
) -> Result<(TopicList, usize), TooCostly> {
    let all = directory.list(view);
    if let Some(topics) = cache.snapshot_topics(position, filter.as_ref(), &all) {
        return Ok((topics, 0));
    }
    let visible = directory.visible(view);
    let names = visible.iter().map(|entry| &entry.info.name);
    let cost = bounded_cost(filter.as_deref(), names)?;
    let topics: TopicList = match &filter {
        None => Arc::clone(&all),
        Some(filter) => visible
            .into_iter()
            .filter(|entry| passes(Some(filter), &entry.info.name))
            .map(|entry| Arc::clone(&entry.packed))
            .collect(),
    };
    cache.keep_snapshot(position, filter, all, Arc::clone(&topics));
    Ok((topics, cost))
}

/// A filter takes too many steps for the names that it must be matched with.
#[derive(Debug)]
struct TooCostly;

fn too_costly() -> Answer {
    let problem = "with so many topics it would take too long: have less behind a `*`";
    Answer::Error { message: format!("ext.filter: {problem}"), cause: ErrorCause::Limit }
}

/// About how many steps it takes to match a filter with these names, if that is not too many.
fn bounded_cost<'a>(
    filter: Option<&TopicFilter>,
    names: impl Iterator<Item = &'a TopicName>,
) -> Result<usize, TooCostly> {
    let total = names.map(|name| visit_cost(filter, name)).sum();
    if filter.is_some() && total > MAX_MATCH_COST { Err(TooCostly) } else { Ok(total) }
}
