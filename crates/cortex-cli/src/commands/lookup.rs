//! `cortex topic lookup`

use crate::args::{Format, LookupArgs};
use crate::commands::CommandContext;
use crate::error::CliError;
use crate::escape::visible;
use crate::render::{self, Header, Record};

pub(crate) fn run(context: &CommandContext<'_>, args: &LookupArgs) -> Result<(), CliError> {
    let topic = context
        .connect()?
        .lookup_topic(args.name.as_str())
        .map_err(|error| context.cli_error(&error))?;

    let output = context.output;
    match (args.field, output.format()) {
        (Some(field), Format::Table | Format::Name) => {
            output.data(&format!("{}\n", visible(&render::field(&topic, field))))
        }
        (Some(field), Format::Json | Format::Jsonl) => output.json(&render::field(&topic, field)),
        (None, Format::Table) => {
            let header = Header::new(true, output.stdout_styled());
            output.data(&render::table([&topic], header))
        }
        (None, Format::Name) => output.data(&render::names([&topic])),
        (None, Format::Json | Format::Jsonl) => output.json(&Record::new(&topic)),
    }
}
