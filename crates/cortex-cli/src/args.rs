//! The command line: its commands, options, defaults and help.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, ColorChoice, Parser, Subcommand, ValueEnum};
use cortex_client::{DEFAULT_WAIT_TIMEOUT, TopicName};

/// The default of `--timeout`.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// The environment variable with the daemon's address, for commands without `-a`.
pub(crate) const ADDRESS_VARIABLE: &str = "CORTEX_DISCOVERY_ADDRESS";

const EXAMPLES: &str = "\
Examples:
  cortex topic list                               all topics, as a table
  cortex topic list '/camera/**' -o name          only the names of the topics below /camera
  cortex topic lookup /camera/image --field address
  cortex topic wait /camera/image --timeout 1m    until the topic is registered
  cortex topic watch                              changes to topics as they happen
  cortex -a tcp://10.0.0.5:5550 ping -c 3

Exit codes:
  0  success                        4  no such topic
  1  refused, or another failure    5  already exists
  2  wrong usage                    6  unreadable answer
  3  no daemon, or no answer        124  `topic wait` timed out
                                    130  interrupted by Ctrl-C";

const LIST_EXAMPLES: &str = "\
Patterns:
  *    any characters within a segment     /camera/*   matches /camera/left, not /camera/left/image
  **   any characters across segments      /camera/**  matches both
  ?    one character                       /joint?     matches /joint1, not /joint12

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
The command prints the topics in the same form as `cortex topic lookup`. With -o json, one NAME
gives an object, and several NAMEs give an array in the same order. With --gone the command prints
nothing, or [] with -o json.

The command goes on waiting when the daemon restarts. Exit code 124 means that the time ran out.
Exit code 3 means that no daemon answered at the start or at the end of the time.

Examples:
  cortex topic wait /camera/image
  cortex topic wait /camera/left /camera/right --timeout 2m && start-stereo
  cortex topic wait /camera/image --gone --timeout 10s";

const WATCH_EXAMPLES: &str = "\
Events:
  present       the topic is registered when the watch starts, or after a resync
  registered    a client registered the topic
  updated       a client registered the topic again, with other data
  unregistered  a client unregistered the topic
  evicted       the daemon removed the topic; the event gives the reason
  resync        the watch has missed changes, because the daemon lost its state, was replaced, or
                no longer keeps these changes. Forget all topics; a `present` event follows for each
                topic that is registered now.

The command runs until Ctrl-C, and continues when the daemon restarts. With --timeout it ends after
that time, with exit code 0. With -o jsonl each event is an object with `event`, `revision` if it is
known, `reason` if the daemon gives one, and the keys of the topic.

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

/// Query the Cortex discovery daemon: list, look up, wait for and watch topics
#[derive(Debug, Parser)]
#[command(name = "cortex", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalOptions,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The options of every command. They may stand before or after its name.
#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
#[expect(clippy::doc_markdown, reason = "the help shows these texts as they are")]
pub(crate) struct GlobalOptions {
    /// The daemon's address: ipc://PATH, ipc://@NAME or tcp://HOST:PORT
    ///
    /// The default is $CORTEX_DISCOVERY_ADDRESS, or ipc:///tmp/cortex/discovery.sock if that is not
    /// set.
    #[arg(short, long, global = true, value_name = "ADDRESS")]
    pub(crate) address: Option<String>,

    /// The time limit of the command, such as 500ms or 2s
    ///
    /// The default is 2s. It is 30s for `topic wait`; `topic watch` has no time limit.
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_timeout)]
    pub(crate) timeout: Option<Duration>,

    /// The format of the results
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,

    /// When to use colours; `auto` uses them on a terminal, unless $NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorChoice,

    /// Print only errors to stderr
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Log to stderr what the command sends and receives
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

/// The output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns with a header
    Table,
    /// One topic name per line
    Name,
    /// One JSON document; errors are JSON too
    Json,
    /// One JSON object per line; errors are JSON too
    Jsonl,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List, look up, wait for and watch topics
    #[command(arg_required_else_help = true)]
    Topic {
        #[command(subcommand)]
        command: TopicCommand,
    },
    /// List the registered topics (short for `cortex topic list`)
    List(ListArgs),
    /// Show one topic (short for `cortex topic lookup`)
    Lookup(LookupArgs),
    /// Wait until topics are registered, or removed (short for `cortex topic wait`)
    Wait(WaitArgs),
    /// Show changes to topics as they happen (short for `cortex topic watch`)
    Watch(WatchArgs),
    /// Check that the daemon answers, and measure how fast
    Ping(PingArgs),
    /// Stop the daemon
    Shutdown(ShutdownArgs),
}

impl Command {
    /// The default of `--timeout` for this command.
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
    /// Wait until topics are registered, or removed
    Wait(WaitArgs),
    /// Show changes to topics as they happen
    Watch(WatchArgs),
}

#[derive(Args, Debug)]
#[command(after_help = LIST_EXAMPLES)]
pub(crate) struct ListArgs {
    /// Show only topics whose whole name matches this pattern
    #[arg(value_name = "GLOB")]
    pub(crate) glob: Option<String>,

    /// Show only topics with exactly this message type
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) message_type: Option<String>,

    /// Show only topics of the node with exactly this name
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,

    /// Omit the table's header
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
    /// The names of the topics; all of them must be registered at the same time
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<TopicName>,

    /// Wait until none of the topics is registered
    #[arg(long)]
    pub(crate) gone: bool,
}

#[derive(Args, Debug)]
#[command(after_help = WATCH_EXAMPLES)]
pub(crate) struct WatchArgs {
    /// Show only topics whose whole name matches this pattern (see `cortex topic list --help`)
    #[arg(value_name = "GLOB")]
    pub(crate) glob: Option<String>,

    /// Omit the table's header
    #[arg(long)]
    pub(crate) no_headers: bool,
}

/// A field of a topic, named by its JSON key.
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
    /// How many pings to send
    ///
    /// The command ends at the first ping without an answer. --timeout limits each ping.
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,

    /// The time from one ping to the next
    #[arg(short, long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    pub(crate) interval: Duration,
}

#[derive(Args, Debug)]
#[command(after_help = SHUTDOWN_EXAMPLES)]
pub(crate) struct ShutdownArgs {
    /// Return only when no daemon listens at the address any more
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
        Duration::ZERO => Err("the time must be more than zero".to_owned()),
        timeout => Ok(timeout),
    }
}

/// Finds `--output` and `--color` in a command line that clap has rejected, so that the error is
/// printed in the format that the user asked for.
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

/// Returns the last value of an option, in any spelling that clap accepts.
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
            // Flags may stand before the option in the same word, as in `-qojson`.
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
