//! `cortex topic list`

use crate::args::{Format, ListArgs};
use crate::commands::Session;
use crate::error::CliError;
use crate::filter::Filter;
use crate::render::{self, Header, Record};

pub(crate) fn run(session: &Session<'_>, args: &ListArgs) -> Result<(), CliError> {
    let filter = Filter::new(args)?;
    let mut topics = session.connect()?.list_topics().map_err(|error| session.explain(&error))?;
    topics.retain(|topic| filter.passes(topic));
    topics.sort_by(|one, other| one.name.cmp(&other.name));

    let output = session.output;
    match output.format() {
        Format::Table => {
            let header = Header::new(!args.no_headers, output.stdout_styled());
            output.data(&render::table(&topics, header))?;
        }
        Format::Name => output.data(&render::names(&topics))?,
        Format::Json => output.json(&topics.iter().map(Record::new).collect::<Vec<_>>())?,
        Format::Jsonl => topics.iter().try_for_each(|topic| output.json(&Record::new(topic)))?,
    }
    if topics.is_empty() {
        explain_nothing(session, args, &filter);
    }
    Ok(())
}

fn explain_nothing(session: &Session<'_>, args: &ListArgs, filter: &Filter) {
    if filter.is_open() {
        session.output.note("no topics are registered");
        return;
    }
    session.output.note("no registered topic matches");
    if args.glob.as_ref().is_some_and(|glob| glob.contains('*') && !glob.contains("**")) {
        session.output.hint("`*` stays within a segment; `**` goes across, as in `/camera/**`");
    }
}
