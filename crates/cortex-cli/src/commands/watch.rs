//! `cortex topic watch`

use std::time::{Duration, Instant};

use cortex_client::{Change, Error, TopicInfo, Watch, WatchEvent};
use serde::Serialize;

use crate::args::{Format, WatchArgs};
use crate::commands::Session;
use crate::error::{CliError, Kind};
use crate::escape::visible;
use crate::filter;
use crate::render::{self, GrowingTable, Header, Record};

/// How often to look, while nothing happens, whether the daemon is in trouble and whether anybody
/// still reads what is printed.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

const HEADER: [&str; 6] = ["EVENT", "TOPIC", "TYPE", "NODE", "ADDRESS", "REASON"];
/// The longest event is known beforehand.
const WIDTHS: [usize; HEADER.len()] = ["unregistered".len(), 0, 0, 0, 0, 0];

pub(crate) fn run(
    session: &Session<'_>,
    args: &WatchArgs,
    limit: Option<Duration>,
) -> Result<(), CliError> {
    let started = Instant::now();
    if session.output.format() == Format::Json {
        return Err(CliError::new(Kind::Usage, "what is watched has no end, and so no one JSON")
            .hint("`-o jsonl` prints an object for each event"));
    }
    if let Some(glob) = &args.glob {
        filter::compile(glob)?;
    }
    let explain = |error: Error| session.explain(&error);
    let mut watch = session.connect()?.watch(args.glob.as_deref()).map_err(explain)?;
    let mut printer = Printer::new(session, args);
    let mut trouble = Trouble::default();
    let mut has_begun = false;
    loop {
        let left = limit.map_or(Duration::MAX, |limit| limit.saturating_sub(started.elapsed()));
        let heard = watch.next_within(left.min(LOOK_INTERVAL)).map_err(explain)?;
        let is_over = limit.is_some_and(|limit| started.elapsed() >= limit);
        let is_silent = is_over || matches!(watch.trouble(), Some(Error::NoAnswer { .. }));
        if heard.is_none() && !has_begun && is_silent {
            return Err(session.no_answer());
        }
        trouble.look(session, &watch);
        if let Some(event) = heard {
            has_begun = true;
            printer.print(&event)?;
            continue;
        }
        if is_over || session.output.is_unread() {
            return Ok(());
        }
    }
}

/// What people were told about the daemon.
#[derive(Default)]
struct Trouble {
    is_told: bool,
}

impl Trouble {
    fn look(&mut self, session: &Session<'_>, watch: &Watch) {
        let (address, output) = (session.address.as_str(), session.output);
        match (watch.trouble(), self.is_told) {
            (Some(Error::Disconnected { .. }), false) => {
                output.note(&format!("the daemon at {address} is gone: waiting for it"));
            }
            (Some(_), false) => {
                output.note(&format!("the daemon at {address} does not answer: waiting for it"));
            }
            (None, true) => output.note(&format!("the daemon at {address} answers again")),
            (Some(_), true) | (None, false) => {}
        }
        self.is_told = watch.trouble().is_some();
    }
}

/// An event as JSON shows it.
#[derive(Debug, Serialize)]
struct Told<'a> {
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(flatten)]
    topic: Option<Record<'a>>,
}

struct Printer<'a> {
    session: &'a Session<'a>,
    table: GrowingTable<{ HEADER.len() }>,
    header: Header,
}

impl<'a> Printer<'a> {
    fn new(session: &'a Session<'a>, args: &WatchArgs) -> Self {
        let header = Header::new(!args.no_headers, session.output.stdout_styled());
        Self { session, table: GrowingTable::new(WIDTHS), header }
    }

    fn print(&mut self, event: &WatchEvent) -> Result<(), CliError> {
        let text = match event {
            WatchEvent::Snapshot { topics, revision, is_resync } => {
                let resync = is_resync.then_some(("resync", *revision, None, None));
                let present = topics.iter().map(|topic| ("present", *revision, None, Some(topic)));
                self.lines(&resync.into_iter().chain(present).collect::<Vec<_>>())?
            }
            WatchEvent::Changed(Change { kind, revision, info, reason, .. }) => {
                let (kind, reason) = (kind.to_string(), reason.as_ref().map(ToString::to_string));
                self.lines(&[(&kind, *revision, reason.as_deref(), Some(info))])?
            }
            _ => return Ok(()),
        };
        self.session.output.data(&text)
    }

    fn lines(&mut self, events: &[Line<'_>]) -> Result<String, CliError> {
        match self.session.output.format() {
            Format::Table => {
                let header = std::mem::replace(&mut self.header, Header::None);
                let titles = (header != Header::None).then_some(HEADER);
                let rows = titles.into_iter().chain(events.iter().map(row));
                Ok(self.table.rows(&rows.collect::<Vec<_>>(), header))
            }
            Format::Name => Ok(events.iter().fold(String::new(), |text, (event, _, _, topic)| {
                let name = topic.map_or("", |topic| topic.name.as_str());
                text + format!("{} {}", visible(event), visible(name)).trim_end() + "\n"
            })),
            Format::Json | Format::Jsonl => {
                events.iter().try_fold(String::new(), |text, (event, revision, reason, topic)| {
                    let topic = topic.map(Record::new);
                    let told = Told { event, revision: *revision, reason: *reason, topic };
                    Ok(text + &render::json(&told, false)? + "\n")
                })
            }
        }
    }
}

/// An event's word, its revision, its reason, and the topic.
type Line<'a> = (&'a str, Option<u64>, Option<&'a str>, Option<&'a TopicInfo>);

fn row<'a>((event, _, reason, topic): &Line<'a>) -> [&'a str; HEADER.len()] {
    let [name, message_type, node, address] = topic.map_or([""; 4], |topic| {
        [topic.name.as_str(), &topic.message_type, &topic.publisher_node, &topic.address]
    });
    [event, name, message_type, node, address, reason.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use cortex_client::TopicName;

    use super::*;
    use crate::address::Address;
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
        let batches: [&[Line<'_>]; 4] = [
            &[("present", Some(7), None, Some(&left)), ("present", Some(7), None, Some(&evil))],
            &[("evicted", Some(8), Some("owner exited"), Some(&left))],
            &[("registered", None, None, Some(&topic("/a/longer/name/than/before", "n")))],
            &[("resync", Some(2), None, None)],
        ];
        let mut shown = String::new();
        for arguments in ["-otable", "-oname", "-ojsonl"] {
            let cli = Cli::try_parse_from(["cortex", arguments, "watch"]).unwrap();
            let output = Output::new(&cli.global);
            let address = Address::choose(None, None).unwrap();
            let session = Session { address, timeout: DEFAULT_TIMEOUT, output: &output };
            let args = WatchArgs { glob: None, no_headers: false };
            let mut printer = Printer::new(&session, &args);
            for batch in batches {
                shown += &printer.lines(batch).unwrap();
            }
            shown += "\n";
        }
        insta::assert_snapshot!(shown);
    }
}
