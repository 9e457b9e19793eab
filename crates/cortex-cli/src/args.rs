//! The command line: its words, defaults and help.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, ColorChoice, Parser, Subcommand, ValueEnum};
use cortex_client::{DEFAULT_WAIT_TIMEOUT, TopicName};

/// How long a command may take when nothing else is said.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the daemon's address is taken from when `-a` is not given.
pub(crate) const ADDRESS_VARIABLE: &str = "CORTEX_DISCOVERY_ADDRESS";

const EXAMPLES: &str = "\
Examples:
  cortex topic list                          all topics, as a table
  cortex list '/camera/**' -o name           the names below /camera
  cortex lookup /camera/image --field address
  cortex wait /camera/image --timeout 1m     until it is registered
  cortex watch                               what comes, changes and goes
  cortex -a tcp://10.0.0.5:5550 ping -c 3

Exit codes:
  0  done                           4  no such topic
  1  refused, or another failure    5  already exists
  2  usage                          6  the answer could not be read
  3  no daemon, or no answer        124  `wait` ran out of time
                                    130  interrupted by Ctrl-C";

const LIST_EXAMPLES: &str = "\
Patterns:
  *    anything within a segment    /camera/*     /camera/left, not /camera/left/image
  **   anything across segments     /camera/**    both of them
  ?    one character                /joint?       /joint1, not /joint12

Examples:
  cortex topic list
  cortex topic list '/arm/**' --type JointState
  cortex topic list --node camera_node -o json";

const LOOKUP_EXAMPLES: &str = "\
Examples:
  cortex topic lookup /camera/image
  cortex topic lookup /camera/image --field address
  cortex topic lookup /camera/image -o json";

const WAIT_EXAMPLES: &str = "\
The topics are printed as `lookup` prints them; as json one NAME gives an object, several give an
array in their order. With --gone there is nothing to print; as json that is [].

A daemon that is restarted meanwhile is waited for. Exit code 124 tells that the time was over, 3
that no daemon answered at its end, or at the beginning.

Examples:
  cortex topic wait /camera/image
  cortex topic wait /camera/left /camera/right --timeout 2m && start-stereo
  cortex topic wait /camera/image --gone --timeout 10s";

const WATCH_EXAMPLES: &str = "\
Events:
  present       a topic that is there at the beginning, or after a resync
  registered    a topic has come
  updated       its publisher has registered it again, with other facts
  unregistered  it was taken back
  evicted       the daemon has removed it, for the reason that is told
  resync        what has happened cannot be told, since the daemon lost its state or was replaced, or
                more has happened than it keeps: forget all topics; those that are there follow

It goes on until Ctrl-C, also through restarts of the daemon; with --timeout it ends after that
time, with exit code 0. As jsonl each event is an object with `event`, `revision` where it is
known, `reason` where there is one, and the topic's keys.

Examples:
  cortex topic watch
  cortex topic watch '/camera/**' -o jsonl
  cortex topic watch --timeout 10s -o name";

const PING_EXAMPLES: &str = "\
Examples:
  cortex ping
  cortex ping -c 10 -i 200ms
  cortex ping --timeout 500ms || echo 'no daemon'";

const SHUTDOWN_EXAMPLES: &str = "\
Examples:
  cortex shutdown
  cortex shutdown --wait --timeout 10s";

/// Ask the Cortex discovery daemon which topics there are and where they are published
#[derive(Debug, Parser)]
#[command(name = "cortex", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalOptions,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands, before and after its name.
#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
#[expect(clippy::doc_markdown, reason = "the help shows these texts as they are")]
pub(crate) struct GlobalOptions {
    /// The daemon's address: ipc://PATH, ipc://@NAME or tcp://HOST:PORT
    ///
    /// Without it $CORTEX_DISCOVERY_ADDRESS is used, and without that
    /// ipc:///tmp/cortex/discovery.sock.
    #[arg(short, long, global = true, value_name = "ADDRESS")]
    pub(crate) address: Option<String>,

    /// How long the whole command may take, such as 500ms or 2s
    ///
    /// Without it 2s; `wait` takes up to 30s, and `watch` has no end.
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_timeout)]
    pub(crate) timeout: Option<Duration>,

    /// How results are printed
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,

    /// When to use colours; `auto` is on a terminal, unless $NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorChoice,

    /// Print nothing on stderr but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Tell on stderr what is sent and received
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns with a header
    Table,
    /// One topic name a line
    Name,
    /// JSON, all at once; errors too
    Json,
    /// One JSON object a line; errors too
    Jsonl,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List, find, await and watch topics
    #[command(arg_required_else_help = true)]
    Topic {
        #[command(subcommand)]
        command: TopicCommand,
    },
    /// List the registered topics (the same as `topic list`)
    List(ListArgs),
    /// Show one topic (the same as `topic lookup`)
    Lookup(LookupArgs),
    /// Wait until topics are registered, or gone (the same as `topic wait`)
    Wait(WaitArgs),
    /// Show topics as they come, change and go (the same as `topic watch`)
    Watch(WatchArgs),
    /// Ask whether the daemon answers, and how fast
    Ping(PingArgs),
    /// End the daemon
    Shutdown(ShutdownArgs),
}

impl Command {
    /// How long this command may take when nothing else is said.
    pub(crate) fn default_timeout(&self) -> Duration {
        match self {
            Self::Wait(_) | Self::Topic { command: TopicCommand::Wait(_) } => DEFAULT_WAIT_TIMEOUT,
            Self::Topic { .. }
            | Self::List(_)
            | Self::Lookup(_)
            | Self::Watch(_)
            | Self::Ping(_)
            | Self::Shutdown(_) => DEFAULT_TIMEOUT,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// List the registered topics
    List(ListArgs),
    /// Show one topic
    Lookup(LookupArgs),
    /// Wait until topics are registered, or gone
    Wait(WaitArgs),
    /// Show topics as they come, change and go
    Watch(WatchArgs),
}

#[derive(Args, Debug)]
#[command(after_help = LIST_EXAMPLES)]
pub(crate) struct ListArgs {
    /// Only topics whose whole name matches this pattern
    #[arg(value_name = "GLOB")]
    pub(crate) glob: Option<String>,

    /// Only topics of exactly this message type
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) message_type: Option<String>,

    /// Only topics that exactly this node publishes
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,

    /// Leave out the table's header
    #[arg(long)]
    pub(crate) no_headers: bool,
}

#[derive(Args, Debug)]
#[command(after_help = LOOKUP_EXAMPLES)]
pub(crate) struct LookupArgs {
    /// The topic's name
    #[arg(value_name = "NAME")]
    pub(crate) name: TopicName,

    /// Print only this field
    #[arg(long, value_name = "FIELD")]
    pub(crate) field: Option<Field>,
}

#[derive(Args, Debug)]
#[command(after_help = WAIT_EXAMPLES)]
pub(crate) struct WaitArgs {
    /// The topics' names: all of them must be there at the same time
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<TopicName>,

    /// Wait until none of them is registered
    #[arg(long)]
    pub(crate) gone: bool,
}

#[derive(Args, Debug)]
#[command(after_help = WATCH_EXAMPLES)]
pub(crate) struct WatchArgs {
    /// Only topics whose whole name matches this pattern: see `cortex list --help`
    #[arg(value_name = "GLOB")]
    pub(crate) glob: Option<String>,

    /// Leave out the table's header
    #[arg(long)]
    pub(crate) no_headers: bool,
}

/// A field of a topic, by its JSON key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Field {
    Name,
    Address,
    MessageType,
    Fingerprint,
    PublisherNode,
}

#[derive(Args, Debug)]
#[command(after_help = PING_EXAMPLES)]
pub(crate) struct PingArgs {
    /// How often to ask; the first missing answer ends it, and each answer has the whole --timeout
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,

    /// The time from one question to the next
    #[arg(short, long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    pub(crate) interval: Duration,
}

#[derive(Args, Debug)]
#[command(after_help = SHUTDOWN_EXAMPLES)]
pub(crate) struct ShutdownArgs {
    /// Return when nobody listens at the address any more
    #[arg(long)]
    pub(crate) wait: bool,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    if text.chars().all(|character| character.is_ascii_digit() || character == '.') {
        return Err("a unit is missing: write 500ms or 2s".to_owned());
    }
    humantime::parse_duration(text).map_err(|_| "write a duration such as 500ms or 2s".to_owned())
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("no command can be done in no time".to_owned()),
        timeout => Ok(timeout),
    }
}

/// The global options of a command line that has a mistake somewhere, as far as they can be seen:
/// the mistake has to be told in the form that was asked for.
pub(crate) fn parse_output_flags(args: &[OsString]) -> GlobalOptions {
    let output = last_value(args, "output", Some('o'));
    let color = last_value(args, "color", None);
    GlobalOptions {
        address: None,
        timeout: None,
        output: output.and_then(|word| Format::from_str(word, false).ok()).unwrap_or(Format::Table),
        color: color.and_then(|word| word.parse().ok()).unwrap_or(ColorChoice::Auto),
        quiet: false,
        verbose: false,
    }
}

/// The last value that is given to an option, however it is written.
fn last_value<'a>(args: &'a [OsString], long: &str, short: Option<char>) -> Option<&'a str> {
    let mut found = None;
    let mut words = args.iter().filter_map(|word| word.to_str()).take_while(|word| *word != "--");
    while let Some(word) = words.next() {
        let value = if let Some(option) = word.strip_prefix("--") {
            match option.split_once('=') {
                Some((name, value)) if name == long => Some(value),
                None if option == long => words.next(),
                Some(_) | None => None,
            }
        } else {
            // Flags may stand before it in the same word.
            let options =
                word.strip_prefix('-').map(|options| options.trim_start_matches(['q', 'v']));
            match short.and_then(|short| options?.strip_prefix(short)) {
                Some("") => words.next(),
                Some(value) => Some(value.strip_prefix('=').unwrap_or(value)),
                None => None,
            }
        };
        found = value.or(found);
    }
    found
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_of_every_command() {
        let mut root = Cli::command().term_width(100);
        root.build();
        let mut pages = vec![("cortex".to_owned(), root)];
        while let Some((path, mut command)) = pages.pop() {
            insta::assert_snapshot!(path.replace(' ', "-"), command.render_long_help());
            for inner in command.get_subcommands() {
                let inner = inner.clone().term_width(100);
                pages.push((format!("{path} {}", inner.get_name()), inner));
            }
        }
    }

    #[test]
    fn durations_carry_a_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_timeout("2s"), Ok(Duration::from_secs(2)));
        for bare in ["2", "0", "1.5", ""] {
            assert!(parse_duration(bare).unwrap_err().starts_with("a unit is missing"), "{bare}");
        }
        for wrong in ["s", "2 parsecs", "-1s", "99999999999999999999s"] {
            assert!(parse_duration(wrong).unwrap_err().starts_with("write a duration"), "{wrong}");
        }
        assert!(parse_timeout("0s").is_err());
    }

    #[test]
    fn global_options_may_stand_anywhere() {
        for args in [
            &["cortex", "-o", "json", "--timeout", "3s", "topic", "list"][..],
            &["cortex", "topic", "-ojson", "list", "--timeout=3s"],
            &["cortex", "topic", "list", "--timeout", "3s", "--output=json"],
        ] {
            let global = Cli::try_parse_from(args).unwrap().global;
            assert_eq!(global.output, Format::Json);
            assert_eq!(global.timeout, Some(Duration::from_secs(3)));
        }
    }

    #[test]
    fn a_wrong_command_line_still_tells_its_format() {
        for (args, format) in [
            (&["cortex", "-o", "json", "nonsense"][..], Format::Json),
            (&["cortex", "lookup", "-o", "jsonl"], Format::Jsonl),
            (&["cortex", "topic", "lookup", "/a", "--field", "x", "-o", "json"], Format::Json),
            (&["cortex", "ping", "--nonsense", "-o", "json"], Format::Json),
            (&["cortex", "ping", "-qojson", "--timeout", "2"], Format::Json),
            (&["cortex", "--output=json"], Format::Json),
            (&["cortex", "-o=json", "-o", "name", "nonsense"], Format::Name),
            (&["cortex", "--", "-o", "json"], Format::Table),
            (&["cortex", "-o", "xml", "ping"], Format::Table),
            (&["cortex", "nonsense"], Format::Table),
        ] {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            assert_eq!(parse_output_flags(&args).output, format, "{args:?}");
        }
    }
}
