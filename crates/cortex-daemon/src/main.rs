//! `cortex-discovery`: the daemon as a program.

mod log_writer;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use cortex_daemon::registry::Limits;
use cortex_daemon::{
    BindError, Config, DiscoveryDaemon, ListenAddress, State, StopHandle, default_state_path,
    raise_descriptor_limit, serve_probe_helper, stop_on_signals,
};
use cortex_proto::DEFAULT_DISCOVERY_ADDRESS;
use log_writer::LogWriter;
use tracing::level_filters::LevelFilter;

/// The exit code when another program already listens at the address.
const ALREADY_RUNS: u8 = 5;
/// The hidden argument of a probe helper.
const PROBE_HELPER: &str = "--probe-helper";

/// The Cortex discovery daemon: nodes register topics here and look up the topics of other nodes.
///
/// The daemon runs in the foreground until Ctrl-C, SIGTERM, SIGHUP or `cortex
/// shutdown`. It logs to stderr.
#[derive(Parser)]
#[command(name = "cortex-discovery", version, after_help = AFTER_HELP, max_term_width = 100)]
struct Arguments {
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = DEFAULT_DISCOVERY_ADDRESS,
        help = "The address to listen at: ipc://PATH, ipc://@NAME or tcp://IP:PORT; repeat the option \
                for more addresses"
    )]
    address: Vec<ListenAddress>,

    /// The lowest log level: `info` logs changes, `debug` also logs every request.
    #[arg(long, value_name = "LEVEL", default_value = "info", ignore_case = true)]
    log_level: LogLevel,

    /// The format of log lines.
    #[arg(long, value_name = "FORMAT", default_value = "text", ignore_case = true)]
    log_format: LogFormat,

    #[arg(
        long,
        value_name = "PATH",
        help = "The file that keeps topics when the daemon restarts [default: in $STATE_DIRECTORY, \
                $XDG_STATE_HOME/cortex or ~/.local/state/cortex, named after the first address, or \
                none if the daemon cannot use that]"
    )]
    state: Option<PathBuf>,

    /// Keep topics in memory only: they are lost when the daemon stops.
    #[arg(long, conflicts_with = "state")]
    no_state: bool,

    /// The access mode of the socket files in octal, such as 660 [default: from the umask].
    #[arg(long, value_name = "MODE", value_parser = parse_mode)]
    socket_mode: Option<u32>,

    /// Allow any client over TCP to stop the daemon.
    #[arg(long)]
    allow_remote_shutdown: bool,

    /// The maximum number of topics.
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    max_topics: usize,

    /// The maximum number of connections [default: from the limit of open file descriptors].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: Option<u32>,

    /// The time between two probes of an endpoint whose owner process the daemon cannot watch.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_interval)]
    probe_interval: Duration,

    /// How long an unreachable host keeps its topics; 0s keeps them for ever.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
    unreachable_after: Duration,
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("write three octal digits, such as 660".to_owned()),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}: write a number with a unit, such as 500ms or 5s"))
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    if interval < Duration::from_millis(100) {
        return Err("the minimum is 100ms".to_owned());
    }
    Ok(interval)
}

const AFTER_HELP: &str = "\
Exit codes:
  0  stopped by Ctrl-C, SIGTERM, SIGHUP or a client
  1  failed; the last log line gives the reason
  2  wrong arguments
  5  a daemon already runs at the address

Examples:
  cortex-discovery
  cortex-discovery --address ipc:///run/cortex/discovery.sock --log-format json
  cortex-discovery --address ipc:///tmp/cortex/discovery.sock --address tcp://127.0.0.1:7400";

#[derive(Clone, Copy, ValueEnum)]
enum LogLevel {
    Trace,
    Debug,
    Info,
    #[value(alias = "warn")]
    Warning,
    // The daemon has no level above it.
    #[value(aliases = ["critical", "fatal"])]
    Error,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// Text lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

fn main() -> ExitCode {
    if is_probe_helper() {
        return if serve_probe_helper().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let arguments = Arguments::parse();
    start_logging(arguments.log_level, arguments.log_format);
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            let bind_error = error.downcast_ref::<BindError>();
            if bind_error.is_some_and(BindError::is_already_running) {
                ExitCode::from(ALREADY_RUNS)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// Whether a daemon has started this process as its probe helper.
fn is_probe_helper() -> bool {
    let mut arguments = std::env::args_os().skip(1);
    arguments.next().is_some_and(|first| first == PROBE_HELPER) && arguments.next().is_none()
}

/// This program: by Linux's link to it, which stays right when an upgrade replaces the file, else by
/// the path with which it was started.
fn own_program() -> Option<PathBuf> {
    match std::env::current_exe() {
        Ok(_) if cfg!(target_os = "linux") => Some("/proc/self/exe".into()),
        Ok(path) => Some(path),
        Err(_) => std::env::args_os().next().map(PathBuf::from).filter(|path| path.is_absolute()),
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let state = match arguments.state {
        _ if arguments.no_state => State::None,
        Some(path) => State::File(path),
        None => default_state_path(&arguments.address).map_or_else(
            || {
                tracing::warn!(
                    "this user has no home directory, and neither $STATE_DIRECTORY nor \
                     $XDG_STATE_HOME is set. The daemon keeps topics in memory only, and loses \
                     them when it ends: give a state file with --state, or use --no-state to \
                     start without this warning"
                );
                State::None
            },
            State::FileIfUsable,
        ),
    };
    let config = Config {
        addresses: arguments.address,
        state,
        socket_mode: arguments.socket_mode,
        max_connections: arguments.max_connections.map(|count| count as usize),
        limits: Limits { topics: arguments.max_topics, ..Limits::default() },
        allow_remote_shutdown: arguments.allow_remote_shutdown,
        probe_interval: arguments.probe_interval,
        unreachable_after: Some(arguments.unreachable_after).filter(|after| !after.is_zero()),
        probe_helper: own_program(),
    };
    // Before the socket file exists: a program that sees it may stop the daemon at once.
    let stop = StopHandle::new().context("cannot create the pipe for signals")?;
    stop_on_signals(&stop).context("cannot handle signals")?;
    match DiscoveryDaemon::bind_with(&config, stop) {
        Err(BindError::Stopped) => {
            tracing::info!("asked to stop while waiting for another daemon to end");
            Ok(())
        }
        bound => Ok(bound?.run()?),
    }
}

#[expect(clippy::disallowed_methods, reason = "NO_COLOR is for the program, not for the library")]
fn start_logging(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_writer(Mutex::new(LogWriter::default()))
        .log_internal_errors(false);
    match format {
        LogFormat::Text => {
            let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(is_terminal && std::env::var_os("NO_COLOR").is_none()).init();
        }
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
