//! Formats topics as tables, names and JSON. This module does not print.

use std::borrow::Cow;

use anstyle::Style;
use cortex_client::TopicInfo;
use serde::Serialize;
use unicode_width::UnicodeWidthStr as _;

use crate::args::Field;
use crate::error::{CliError, Kind};
use crate::escape::escape;

const HEADER: [&str; 4] = ["TOPIC", "TYPE", "NODE", "ADDRESS"];
const HEADER_STYLE: Style = Style::new().bold();

/// The JSON object of a topic.
#[derive(Debug, Serialize)]
pub(crate) struct TopicRecord<'a> {
    name: &'a str,
    address: &'a str,
    message_type: &'a str,
    /// A string, because common JSON tools round 64-bit numbers.
    fingerprint: String,
    publisher_node: &'a str,
}

impl<'a> TopicRecord<'a> {
    pub(crate) fn new(topic: &'a TopicInfo) -> Self {
        Self {
            name: topic.name.as_str(),
            address: &topic.address,
            message_type: &topic.message_type,
            fingerprint: fingerprint(topic),
            publisher_node: &topic.publisher_node,
        }
    }
}

fn fingerprint(topic: &TopicInfo) -> String {
    format!("{:#018x}", topic.fingerprint)
}

impl Header {
    pub(crate) fn new(is_wanted: bool, is_styled: bool) -> Self {
        match (is_wanted, is_styled) {
            (false, _) => Self::None,
            (true, false) => Self::Plain,
            (true, true) => Self::Styled,
        }
    }
}

/// The style of a table's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    None,
    Plain,
    Styled,
}

/// Formats topics as a table. Each column is as wide as its widest cell.
pub(crate) fn table<'a>(topics: impl IntoIterator<Item = &'a TopicInfo>, header: Header) -> String {
    let mut rows = Vec::new();
    if header != Header::None {
        rows.push(HEADER.map(Cow::Borrowed));
    }
    rows.extend(topics.into_iter().map(|topic| {
        [topic.name.as_str(), &topic.message_type, &topic.publisher_node, &topic.address].map(cell)
    }));
    columns(&rows, header, &mut [0; HEADER.len()])
}

/// Formats rows in columns. The first row may be a header.
fn columns<const N: usize>(
    rows: &[[Cow<'_, str>; N]],
    header: Header,
    widths: &mut [usize; N],
) -> String {
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.width().max(*width);
        }
    }
    let mut lines = rows.iter().map(|row| line(row, widths));
    let first = match (header, lines.next()) {
        (Header::Styled, Some(line)) => format!("{HEADER_STYLE}{line}{HEADER_STYLE:#}\n"),
        (Header::Plain | Header::None, Some(line)) => line + "\n",
        (_, None) => String::new(),
    };
    lines.fold(first, |text, line| text + &line + "\n")
}

/// A table for a stream of rows, whose widths are not known in advance. A column grows when a row
/// needs it, and never shrinks.
#[derive(Debug)]
pub(crate) struct GrowingTable<const N: usize> {
    widths: [usize; N],
}

impl<const N: usize> GrowingTable<N> {
    /// Returns a table with these minimum widths.
    pub(crate) fn new(widths: [usize; N]) -> Self {
        Self { widths }
    }

    /// Formats the next rows, with columns wide enough for all rows so far.
    pub(crate) fn rows(&mut self, rows: &[[&str; N]], header: Header) -> String {
        let rows: Vec<_> = rows.iter().map(|row| row.map(cell)).collect();
        columns(&rows, header, &mut self.widths)
    }
}

/// Shows an empty cell as `-`, so that programs that split at blanks find the same columns.
fn cell(text: &str) -> Cow<'_, str> {
    if text.is_empty() { Cow::Borrowed("-") } else { escape(text) }
}

fn line<const N: usize>(row: &[Cow<'_, str>; N], widths: &[usize; N]) -> String {
    let mut line = String::new();
    for (cell, width) in row.iter().zip(widths) {
        line += cell;
        line += &" ".repeat(width - cell.width() + 2);
    }
    line.truncate(line.trim_end_matches(' ').len());
    line
}

/// Formats one name per line.
pub(crate) fn names<'a>(topics: impl IntoIterator<Item = &'a TopicInfo>) -> String {
    topics.into_iter().fold(String::new(), |text, topic| text + &escape(topic.name.as_str()) + "\n")
}

/// Returns the value of one field, without escapes.
pub(crate) fn field(topic: &TopicInfo, field: Field) -> String {
    match field {
        Field::Name => topic.name.to_string(),
        Field::Address => topic.address.clone(),
        Field::MessageType => topic.message_type.clone(),
        Field::Fingerprint => fingerprint(topic),
        Field::PublisherNode => topic.publisher_node.clone(),
    }
}

/// Formats a value as JSON, on several lines if `pretty`.
pub(crate) fn json(value: &impl Serialize, pretty: bool) -> Result<String, CliError> {
    let text =
        if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    text.map_err(|error| CliError::new(Kind::Failure, format!("cannot format JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use cortex_client::TopicName;

    use super::*;

    fn topic(name: &str, message_type: &str, node: &str, fingerprint: u64) -> TopicInfo {
        TopicInfo {
            name: TopicName::new(name).unwrap(),
            address: format!("ipc:///tmp/cortex/topics/{}.sock", node.len()),
            message_type: message_type.into(),
            fingerprint,
            publisher_node: node.into(),
        }
    }

    fn topics() -> [TopicInfo; 3] {
        [
            topic("/camera/image", "ImageMessage", "camera_node", 0x1234_5678_9abc_def0),
            topic("/größe/图像", "", "n", 0),
            topic("/evil\n\u{1b}[31m", "T", "two words", u64::MAX),
        ]
    }

    #[test]
    fn tables() {
        let topics = topics();
        insta::assert_snapshot!("table", table(&topics, Header::Plain));
        insta::assert_snapshot!("table-of-one-without-header", table(&topics[..1], Header::None));
        assert_eq!(table(&[], Header::Plain), "TOPIC  TYPE  NODE  ADDRESS\n");
        assert_eq!(table(&[], Header::None), "");
        let styled = table(&[], Header::Styled);
        assert_eq!(styled, "\u{1b}[1mTOPIC  TYPE  NODE  ADDRESS\u{1b}[0m\n");
    }

    #[test]
    fn name_lines() {
        assert_eq!(names(&topics()), "/camera/image\n/größe/图像\n/evil\\n\\u{1b}[31m\n");
    }

    #[test]
    fn json_forms() {
        let topics = topics();
        let records: Vec<_> = topics.iter().map(TopicRecord::new).collect();
        insta::assert_snapshot!("json", json(&records, true).unwrap());
        let lines: Vec<_> = records.iter().map(|record| json(record, false).unwrap()).collect();
        insta::assert_snapshot!("jsonl", lines.join("\n"));
        assert_eq!(json(&Vec::<TopicRecord<'_>>::new(), true).unwrap(), "[]");
    }

    #[test]
    fn fields() {
        let topic = &topics()[0];
        for (name, value) in [
            (Field::Name, "/camera/image"),
            (Field::Address, "ipc:///tmp/cortex/topics/11.sock"),
            (Field::MessageType, "ImageMessage"),
            (Field::Fingerprint, "0x123456789abcdef0"),
            (Field::PublisherNode, "camera_node"),
        ] {
            assert_eq!(field(topic, name), value);
        }
    }
}
