//! `cortex topic list`

use crate::args::{Format, ListArgs};
use crate::commands::CommandContext;
use crate::error::CliError;
use crate::filter::ListFilter;
use crate::render::{self, Header, TopicRecord};

pub(crate) fn run(context: &CommandContext<'_>, args: &ListArgs) -> Result<(), CliError> {
    let filter = ListFilter::new(args)?;
    let mut topics = context.connect()?.list_topics().map_err(|error| context.cli_error(&error))?;
    topics.retain(|topic| filter.matches(topic));
    topics.sort_by(|one, other| one.name.cmp(&other.name));

    let output = context.output;
    match output.format() {
        Format::Table => {
            let header = Header::new(!args.no_headers, output.is_stdout_styled());
            output.print(&render::table(&topics, header))?;
        }
        Format::Name => output.print(&render::names(&topics))?,
        Format::Json => {
            output.print_json(&topics.iter().map(TopicRecord::new).collect::<Vec<_>>())?;
        }
        Format::Jsonl => {
            topics.iter().try_for_each(|topic| output.print_json(&TopicRecord::new(topic)))?;
        }
    }
    if topics.is_empty() {
        note_no_topics(context, args, &filter);
    }
    Ok(())
}

fn note_no_topics(context: &CommandContext<'_>, args: &ListArgs, filter: &ListFilter) {
    if filter.matches_all() {
        context.output.note("no topics are registered");
        return;
    }
    context.output.note("no registered topic matches");
    if args.glob.as_ref().is_some_and(|glob| glob.contains('*') && !glob.contains("**")) {
        context.output.hint(
            "`*` matches within one segment; `**` matches across segments, as in `/camera/**`",
        );
    }
}
