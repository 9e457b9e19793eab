//! `cortex topic lookup`

use crate::args::{Format, LookupArgs};
use crate::commands::CommandContext;
use crate::error::CliError;
use crate::escape::escape;
use crate::render::{self, Header, TopicRecord};

pub(crate) fn run(context: &CommandContext<'_>, args: &LookupArgs) -> Result<(), CliError> {
    let topic = context
        .connect()?
        .lookup_topic(args.name.as_str())
        .map_err(|error| context.cli_error(&error))?;

    let output = context.output;
    match (args.field, output.format()) {
        (Some(field), Format::Table | Format::Name) => {
            output.print(&format!("{}\n", escape(&render::field(&topic, field))))
        }
        (Some(field), Format::Json | Format::Jsonl) => {
            output.print_json(&render::field(&topic, field))
        }
        (None, Format::Table) => {
            let header = Header::new(true, output.is_stdout_styled());
            output.print(&render::table([&topic], header))
        }
        (None, Format::Name) => output.print(&render::names([&topic])),
        (None, Format::Json | Format::Jsonl) => output.print_json(&TopicRecord::new(&topic)),
    }
}
