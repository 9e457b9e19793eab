//! `cortex topic wait`

use std::collections::HashMap;
use std::time::Instant;

use cortex_client::{
    Change, DiscoveryClient, Error, EventKind, TopicFilter, TopicInfo, TopicName, WatchEvent,
};

use crate::args::{DEFAULT_TIMEOUT, Format, WaitArgs};
use crate::commands::CommandContext;
use crate::error::CliError;
use crate::render::{self, Header, TopicRecord};

pub(crate) fn run(context: &CommandContext<'_>, args: &WaitArgs) -> Result<(), CliError> {
    let started = Instant::now();
    // If an answer takes longer than other commands wait, the client asks again.
    let client = context.connect_for(DEFAULT_TIMEOUT)?;
    let mut names = Vec::new();
    for name in &args.names {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    match &*names {
        [name] if !args.gone => {
            let left = context.timeout.saturating_sub(started.elapsed());
            let found = client.wait_for_topic(name.as_str(), left);
            print_topics(context, &[found.map_err(|error| context.cli_error(&error))?], true)
        }
        names => {
            let found = wait_with_watch(context, &client, names, args.gone, started)?;
            print_topics(context, &found, names.len() == 1 && !args.gone)
        }
    }
}

/// Watches until all topics are registered, and returns them in the order of `names`. With `gone`,
/// watches until none of them is registered.
fn wait_with_watch(
    context: &CommandContext<'_>,
    client: &DiscoveryClient,
    names: &[TopicName],
    gone: bool,
    started: Instant,
) -> Result<Vec<TopicInfo>, CliError> {
    let filter = match names {
        [name] => TopicFilter::exactly(name.as_str()).ok(),
        _ => None,
    };
    let filter = filter.as_ref().map(TopicFilter::as_str);
    let cli_error = |error: Error| context.cli_error(&error);
    let mut watch = client.watch(filter).map_err(cli_error)?;
    let mut present = PresentTopics::default();
    loop {
        let left = context.timeout.saturating_sub(started.elapsed());
        let Some(event) = watch.next_within(left).map_err(cli_error)? else {
            if watch.trouble().is_some() || !present.has_snapshot {
                return Err(context.no_answer());
            }
            let is_pending = |name: &&str| present.topics.contains_key(*name) == gone;
            let pending: Vec<_> = names.iter().map(TopicName::as_str).filter(is_pending).collect();
            return Err(context.wait_timed_out(&pending, gone));
        };
        present.apply(event, names);
        let found: Vec<_> =
            names.iter().filter_map(|name| present.topics.get(name.as_str())).cloned().collect();
        if found.len() == if gone { 0 } else { names.len() } {
            return Ok(found);
        }
    }
}

/// The topics of the command that are registered now.
#[derive(Default)]
struct PresentTopics {
    /// Whether the daemon has sent a first snapshot.
    has_snapshot: bool,
    topics: HashMap<String, TopicInfo>,
}

impl PresentTopics {
    fn apply(&mut self, event: WatchEvent, names: &[TopicName]) {
        match event {
            WatchEvent::Snapshot { topics, .. } => {
                self.has_snapshot = true;
                self.topics.clear();
                for topic in topics.into_iter().filter(|topic| names.contains(&topic.name)) {
                    self.topics.insert(topic.name.as_str().to_owned(), topic);
                }
            }
            WatchEvent::Changed(Change { info, .. }) if !names.contains(&info.name) => {}
            WatchEvent::Changed(Change { kind, info, .. }) => match kind {
                EventKind::Registered | EventKind::Updated => {
                    self.topics.insert(info.name.as_str().to_owned(), info);
                }
                EventKind::Unregistered | EventKind::Evicted | EventKind::Other(_) => {
                    self.topics.remove(info.name.as_str());
                }
            },
            // An event kind of a later client version.
            _ => {}
        }
    }
}

fn print_topics(
    context: &CommandContext<'_>,
    topics: &[TopicInfo],
    as_object: bool,
) -> Result<(), CliError> {
    let output = context.output;
    match output.format() {
        Format::Table if topics.is_empty() => Ok(()),
        Format::Table => {
            let header = Header::new(true, output.is_stdout_styled());
            output.print(&render::table(topics, header))
        }
        Format::Name => output.print(&render::names(topics)),
        Format::Json if !as_object => {
            output.print_json(&topics.iter().map(TopicRecord::new).collect::<Vec<_>>())
        }
        Format::Json | Format::Jsonl => {
            topics.iter().try_for_each(|topic| output.print_json(&TopicRecord::new(topic)))
        }
    }
}
