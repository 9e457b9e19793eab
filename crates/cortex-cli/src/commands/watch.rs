//! `cortex topic watch`

use std::time::{Duration, Instant};

use cortex_client::{Change, Error, TopicInfo, Watch, WatchEvent};
use serde::Serialize;

use crate::args::{Format, WatchArgs};
use crate::commands::CommandContext;
use crate::error::{CliError, Kind};
use crate::escape::escape;
use crate::filter;
use crate::render::{self, GrowingTable, Header, TopicRecord};

/// How often the command checks, without an event, whether the daemon answers and whether the
/// reader of stdout has closed it.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

const HEADER: [&str; 6] = ["EVENT", "TOPIC", "TYPE", "NODE", "ADDRESS", "REASON"];
/// The first column is as wide as the longest event from the start.
const WIDTHS: [usize; HEADER.len()] = ["unregistered".len(), 0, 0, 0, 0, 0];

pub(crate) fn run(
    context: &CommandContext<'_>,
    args: &WatchArgs,
    duration: Option<Duration>,
) -> Result<(), CliError> {
    let started = Instant::now();
    if context.output.format() == Format::Json {
        return Err(CliError::new(
            Kind::Usage,
            "a watch has no end, so it cannot be one JSON document",
        )
        .with_hint("`-o jsonl` prints one object per event"));
    }
    if let Some(glob) = &args.glob {
        filter::parse_pattern(glob)?;
    }
    let cli_error = |error: Error| context.cli_error(&error);
    let mut watch = context.connect()?.watch(args.glob.as_deref()).map_err(cli_error)?;
    let mut printer = EventPrinter::new(context, args);
    let mut outage_notes = OutageNotes::default();
    let mut has_started = false;
    loop {
        let left =
            duration.map_or(Duration::MAX, |duration| duration.saturating_sub(started.elapsed()));
        let event = watch.next_within(left.min(CHECK_INTERVAL)).map_err(cli_error)?;
        let is_over = duration.is_some_and(|duration| started.elapsed() >= duration);
        let has_no_answer = is_over || matches!(watch.trouble(), Some(Error::NoAnswer { .. }));
        if event.is_none() && !has_started && has_no_answer {
            return Err(context.no_answer());
        }
        outage_notes.update(context, &watch);
        if let Some(event) = event {
            has_started = true;
            printer.print(&event)?;
            continue;
        }
        if is_over || context.output.is_stdout_closed() {
            return Ok(());
        }
    }
}

/// Prints a note when the daemon stops answering, and when it answers again.
#[derive(Default)]
struct OutageNotes {
    is_reported: bool,
}

impl OutageNotes {
    fn update(&mut self, context: &CommandContext<'_>, watch: &Watch) {
        let (address, output) = (context.address.as_str(), context.output);
        match (watch.trouble(), self.is_reported) {
            (Some(Error::Disconnected { .. }), false) => {
                output.note(&format!("the daemon at {address} is gone; waiting until it is back"));
            }
            (Some(_), false) => {
                output.note(&format!(
                    "the daemon at {address} does not answer; waiting until it answers"
                ));
            }
            (None, true) => output.note(&format!("the daemon at {address} answers again")),
            (Some(_), true) | (None, false) => {}
        }
        self.is_reported = watch.trouble().is_some();
    }
}

/// The JSON object of an event.
#[derive(Debug, Serialize)]
struct EventRecord<'a> {
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(flatten)]
    topic: Option<TopicRecord<'a>>,
}

struct EventPrinter<'a> {
    context: &'a CommandContext<'a>,
    table: GrowingTable<{ HEADER.len() }>,
    header: Header,
}

impl<'a> EventPrinter<'a> {
    fn new(context: &'a CommandContext<'a>, args: &WatchArgs) -> Self {
        let header = Header::new(!args.no_headers, context.output.is_stdout_styled());
        Self { context, table: GrowingTable::new(WIDTHS), header }
    }

    fn print(&mut self, event: &WatchEvent) -> Result<(), CliError> {
        let text = match event {
            WatchEvent::Snapshot { topics, revision, is_resync } => {
                let resync = is_resync.then_some(("resync", *revision, None, None));
                let present = topics.iter().map(|topic| ("present", *revision, None, Some(topic)));
                self.format(&resync.into_iter().chain(present).collect::<Vec<_>>())?
            }
            WatchEvent::Changed(Change { kind, revision, info, reason, .. }) => {
                let (kind, reason) = (kind.to_string(), reason.as_ref().map(ToString::to_string));
                self.format(&[(&kind, *revision, reason.as_deref(), Some(info))])?
            }
            _ => return Ok(()),
        };
        self.context.output.print(&text)
    }

    fn format(&mut self, events: &[EventFields<'_>]) -> Result<String, CliError> {
        match self.context.output.format() {
            Format::Table => {
                let header = std::mem::replace(&mut self.header, Header::None);
                let titles = (header != Header::None).then_some(HEADER);
                let rows = titles.into_iter().chain(events.iter().map(table_row));
                Ok(self.table.rows(&rows.collect::<Vec<_>>(), header))
            }
            Format::Name => Ok(events.iter().fold(String::new(), |text, (event, _, _, topic)| {
                let name = topic.map_or("", |topic| topic.name.as_str());
                text + format!("{} {}", escape(event), escape(name)).trim_end() + "\n"
            })),
            Format::Json | Format::Jsonl => {
                events.iter().try_fold(String::new(), |text, (event, revision, reason, topic)| {
                    let topic = topic.map(TopicRecord::new);
                    let record = EventRecord { event, revision: *revision, reason: *reason, topic };
                    Ok(text + &render::json(&record, false)? + "\n")
                })
            }
        }
    }
}

/// The event's name, revision, reason and topic.
type EventFields<'a> = (&'a str, Option<u64>, Option<&'a str>, Option<&'a TopicInfo>);

fn table_row<'a>((event, _, reason, topic): &EventFields<'a>) -> [&'a str; HEADER.len()] {
    let [name, message_type, node, address] = topic.map_or([""; 4], |topic| {
        [topic.name.as_str(), &topic.message_type, &topic.publisher_node, &topic.address]
    });
    [event, name, message_type, node, address, reason.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use cortex_client::{Address, TopicName};

    use super::*;
    use crate::args::{Cli, DEFAULT_TIMEOUT};
    use crate::output::Output;

    fn topic(name: &str, node: &str) -> TopicInfo {
        TopicInfo {
            name: TopicName::new(name).unwrap(),
            address: "ipc:///tmp/a".into(),
            message_type: "Image".into(),
            fingerprint: 1,
            publisher_node: node.into(),
        }
    }

    #[test]
    fn events_in_every_format() {
        let (left, evil) = (topic("/camera/left", "camera_node"), topic("/evil\n\u{1b}[31m", "n"));
        let batches: [&[EventFields<'_>]; 4] = [
            &[("present", Some(7), None, Some(&left)), ("present", Some(7), None, Some(&evil))],
            &[("evicted", Some(8), Some("owner exited"), Some(&left))],
            &[("registered", None, None, Some(&topic("/a/longer/name/than/before", "n")))],
            &[("resync", Some(2), None, None)],
        ];
        let mut shown = String::new();
        for arguments in ["-otable", "-oname", "-ojsonl"] {
            let cli = Cli::try_parse_from(["cortex", arguments, "watch"]).unwrap();
            let output = Output::new(&cli.global);
            let address = Address::default();
            let context = CommandContext { address, timeout: DEFAULT_TIMEOUT, output: &output };
            let args = WatchArgs { glob: None, no_headers: false };
            let mut printer = EventPrinter::new(&context, &args);
            for batch in batches {
                shown += &printer.format(batch).unwrap();
            }
            shown += "\n";
        }
        insta::assert_snapshot!(shown);
    }
}
