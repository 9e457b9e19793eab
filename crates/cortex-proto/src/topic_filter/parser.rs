//! The parts of a pattern.

use std::iter::Peekable;
use std::str::Chars;

use super::error::TopicFilterError;
use super::matcher::{CharPattern, SegmentPattern};

/// A pattern in its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Parsed {
    /// The characters before the first wildcard, without their backslashes.
    pub(super) prefix: String,
    /// What follows the prefix, from the first wildcard on. Empty when the pattern has none.
    pub(super) segments: Vec<SegmentPattern>,
}

/// Whether anything in the pattern stands for something else than itself.
pub(super) fn has_wildcards(pattern: &str) -> bool {
    let mut rest = pattern.chars();
    while let Some(character) = rest.next() {
        match character {
            '*' | '?' | '[' => return true,
            '\\' => drop(rest.next()),
            _ => {}
        }
    }
    false
}

pub(super) fn parse(pattern: &str) -> Result<Parsed, TopicFilterError> {
    let mut parsed = Parsed::default();
    let mut rest = pattern.chars().peekable();
    let mut is_segment_start = true;
    while let Some(character) = rest.next() {
        match character {
            '*' => {
                let mut stars = 1;
                while rest.next_if_eq(&'*').is_some() {
                    stars += 1;
                }
                let is_segment = is_segment_start && matches!(rest.peek(), None | Some('/'));
                if is_segment && stars == 2 {
                    parsed.push_any_segments(rest.peek().is_none());
                } else {
                    parsed.push_character(CharPattern::Any);
                }
            }
            '?' => parsed.push_character(CharPattern::One),
            '[' => parsed.push_character(parse_set(&mut rest)?),
            '{' | '}' => return Err(TopicFilterError::Brace { brace: character }),
            '\\' => {
                let escaped = rest.next().ok_or(TopicFilterError::TrailingBackslash)?;
                parsed.push_literal(escaped);
            }
            literal => parsed.push_literal(literal),
        }
        is_segment_start = character == '/';
    }
    Ok(parsed)
}

impl Parsed {
    fn push_literal(&mut self, literal: char) {
        if self.segments.is_empty() {
            self.prefix.push(literal);
        } else if literal == '/' {
            self.segments.push(SegmentPattern::One(Vec::new()));
        } else {
            self.push_character(CharPattern::Literal(literal));
        }
    }

    fn push_character(&mut self, character: CharPattern) {
        match self.segments.last_mut() {
            Some(SegmentPattern::One(characters)) => characters.push(character),
            Some(SegmentPattern::Any) | None => {
                self.segments.push(SegmentPattern::One(vec![character]));
            }
        }
    }

    /// Adds a `**` where a segment starts.
    fn push_any_segments(&mut self, is_last: bool) {
        if is_last {
            // `/**` at the end needs the slash: it stands for one segment and any that follow.
            self.push_character(CharPattern::Any);
        } else {
            // The segment that the slash before has opened.
            self.segments.pop();
        }
        self.segments.push(SegmentPattern::Any);
    }
}

/// Takes what follows a `[`, up to its `]`. A `]` that stands first is a member.
fn parse_set(rest: &mut Peekable<Chars<'_>>) -> Result<CharPattern, TopicFilterError> {
    let is_negated = rest.next_if(|next| matches!(next, '!' | '^')).is_some();
    let mut ranges = Vec::new();
    loop {
        let start = match rest.next() {
            Some(']') if !ranges.is_empty() => return Ok(CharPattern::Set { is_negated, ranges }),
            first => parse_member(first, rest)?,
        };
        let mut ahead = rest.clone();
        let is_range = ahead.next() == Some('-') && !matches!(ahead.peek(), None | Some(']'));
        let end = if is_range {
            *rest = ahead;
            parse_member(rest.next(), rest)?
        } else {
            start
        };
        if end < start {
            return Err(TopicFilterError::EmptyRange { start, end });
        }
        if start == '/' || end == '/' {
            return Err(TopicFilterError::SlashInSet);
        }
        ranges.push((start, end));
    }
}

/// A member of a set, which a backslash may precede.
fn parse_member(
    first: Option<char>,
    rest: &mut Peekable<Chars<'_>>,
) -> Result<char, TopicFilterError> {
    let member = if first == Some('\\') { rest.next() } else { first };
    member.ok_or(TopicFilterError::OpenBracket)
}
