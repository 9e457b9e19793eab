//! `cortex ping`

use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::args::{Format, PingArgs};
use crate::commands::CommandContext;
use crate::error::CliError;

/// The JSON object of one answered ping.
#[derive(Debug, Serialize)]
struct PongRecord<'a> {
    address: &'a str,
    /// The number of the ping; the first is 1.
    seq: u32,
    rtt_ms: f64,
}

pub(crate) fn run(context: &CommandContext<'_>, args: &PingArgs) -> Result<(), CliError> {
    let address = context.address.as_str();
    let client = context.connect()?;
    let mut pongs = Vec::new();
    for seq in 1..=args.count {
        let sent = Instant::now();
        client.ping().map_err(|error| context.cli_error(&error))?;
        let pong = PongRecord { address, seq, rtt_ms: millis(sent.elapsed()) };
        match context.output.format() {
            Format::Table | Format::Name => {
                context.output.print(&format!("pong from {address} in {:.3} ms\n", pong.rtt_ms))?;
            }
            Format::Json => pongs.push(pong),
            Format::Jsonl => context.output.print_json(&pong)?,
        }
        if seq < args.count {
            thread::sleep(args.interval.saturating_sub(sent.elapsed()));
        }
    }
    if context.output.format() == Format::Json { context.output.print_json(&pongs) } else { Ok(()) }
}

/// Milliseconds, rounded to a microsecond.
fn millis(elapsed: Duration) -> f64 {
    (elapsed.as_secs_f64() * 1e6).round() / 1e3
}
