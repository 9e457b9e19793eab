//! The meaning of patterns: the table of cases that all implementations share, and properties that a
//! table cannot show.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::iter::Peekable;
use std::str::Chars;

use cortex_proto::{TopicFilter, TopicFilterError};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

#[test]
fn the_shared_table_of_cases_holds() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("golden/filters.json")).unwrap();
    assert!(cases.len() > 50, "the table is complete");
    for case in cases {
        let filter = TopicFilter::new(case["filter"].as_str().unwrap()).unwrap();
        let matches = filter.matches(case["name"].as_str().unwrap());
        assert_eq!(matches, case["matches"].as_bool().unwrap(), "{case}");
    }
}

#[test]
fn malformed_patterns_are_refused() {
    let error = |pattern: &str| TopicFilter::new(pattern).unwrap_err();
    assert_eq!(error(""), TopicFilterError::Empty);
    for open in ["/a[", "[!]", "[]", "/[a-", "/[a\\"] {
        assert_eq!(error(open), TopicFilterError::OpenBracket, "{open}");
    }
    assert_eq!(error("/a\\"), TopicFilterError::TrailingBackslash);
    assert_eq!(error("/[z-a]"), TopicFilterError::EmptyRange { start: 'z', end: 'a' });
    for set in ["/[/]", "/[!a/]", "/[+-/]", "/[/-9]"] {
        assert_eq!(error(set), TopicFilterError::SlashInSet, "{set}");
    }
    for (pattern, brace) in [("/{a,b}", '{'), ("/a}", '}')] {
        assert_eq!(error(pattern), TopicFilterError::Brace { brace });
    }
}

#[test]
fn the_limit_of_length_depends_on_wildcards() {
    for wildcard in ["*", "**", "?", "[a]"] {
        let longest = format!("{wildcard:x<256}");
        assert!(TopicFilter::new(longest.as_str()).is_ok());
        let error = TopicFilter::new(longest + "x").unwrap_err();
        assert_eq!(error, TopicFilterError::TooLong { length: 257, max: 256 });
        assert_eq!(
            error.to_string(),
            "a pattern of 257 bytes is too long: a pattern with wildcards has at most 256 bytes"
        );
    }
    // An escaped star is not a wildcard, and backslashes count.
    let longest = "\\*".repeat(512);
    assert_eq!(TopicFilter::new(longest.as_str()).unwrap().name(), Some(&*"*".repeat(512)));
    let error = TopicFilter::new(longest + "ö").unwrap_err();
    assert_eq!(error, TopicFilterError::TooLong { length: 1026, max: 1024 });
    assert_eq!(
        error.to_string(),
        "a pattern of 1026 bytes is too long: a pattern without wildcards has at most 1024 bytes"
    );
    assert!(TopicFilter::exactly(&"*".repeat(512)).is_ok());
    assert!(TopicFilter::exactly(&"*".repeat(513)).is_err());
}

#[test]
fn the_cost_of_a_match_grows_with_the_characters_from_the_first_wildcard_on() {
    let cost = |pattern: &str| TopicFilter::new(pattern).unwrap().match_cost(1000);
    assert_eq!(cost("/camera/left"), 1000);
    assert_eq!(cost("/camera/**"), 1000);
    assert_eq!(cost("/camera/*/image"), 6000);
    assert_eq!(cost("/joint[1-35]?"), 3000);
    assert_eq!(cost(&format!("*{}", "a".repeat(250))), 250_000);
}

/// Patterns of the parts that `parts` understands.
const PATTERN: &str =
    r"([aöб/]|\?|\*{1,3}|/\*\*/|\[[!^]?\]?([aöб]|a-z|б-д|\\[n\]]){1,2}-?\]|\\[anö*/]){1,8}";

proptest! {
    #[test]
    fn an_exact_filter_matches_only_its_name(name in "[ab/*?{}!,\\[\\]\\\\öä🤖-]{1,8}", other in "[ab/*?{}!,\\[\\]\\\\öä🤖-]{1,8}") {
        let filter = TopicFilter::exactly(&name).unwrap();
        prop_assert!(filter.matches(&name));
        prop_assert_eq!(filter.matches(&other), name == other);
    }

    #[test]
    fn the_matcher_agrees_with_a_naive_one(pattern in PATTERN, name in "[anöбг*/\\]-]{1,8}") {
        let characters: Vec<_> = name.chars().collect();
        let expected = naive(&parts(&pattern), &characters);
        prop_assert_eq!(TopicFilter::new(&*pattern).unwrap().matches(&name), expected);
    }

    /// Only where both mean the same: in ASCII, without our sets' special members, and without a `*`
    /// beside another one unless they are a whole segment.
    #[test]
    fn the_matcher_agrees_with_a_library(
        segments in vec("\\*\\*|([ab]|\\?|\\\\[*?]|\\[a-c\\]|\\[bc\\]|\\*[ab?]){0,4}\\*?", 1..6),
        name in "[abc*?/]{1,12}",
    ) {
        let pattern = segments.join("/");
        prop_assume!(!pattern.is_empty());
        let expected = fast_glob::glob_match(&pattern, &name);
        prop_assert_eq!(TopicFilter::new(pattern).unwrap().matches(&name), expected);
    }

    #[test]
    fn any_valid_pattern_can_be_matched(pattern in "\\PC{1,40}", name in "\\PC{1,40}") {
        if let Ok(filter) = TopicFilter::new(pattern) {
            let _ = filter.matches(&name);
        }
    }
}

/// A part of a pattern.
#[derive(Clone, Debug)]
enum Part {
    One(char),
    AnyOne,
    Set { is_negated: bool, members: Vec<char> },
    WithinSegment,
    Segments,
}

/// The parts of a pattern that this test made.
fn parts(pattern: &str) -> Vec<Part> {
    let mut rest = pattern.chars().peekable();
    let mut parts = Vec::new();
    let mut is_segment_start = true;
    while let Some(first) = rest.next() {
        parts.push(match first {
            '\\' => Part::One(rest.next().unwrap()),
            '?' => Part::AnyOne,
            '*' => {
                let stars = 1 + std::iter::from_fn(|| rest.next_if_eq(&'*')).count();
                let is_segment = is_segment_start && rest.peek().is_none_or(|next| *next == '/');
                if is_segment && stars == 2 { Part::Segments } else { Part::WithinSegment }
            }
            '[' => set(&mut rest),
            other => Part::One(other),
        });
        is_segment_start = first == '/';
    }
    parts
}

/// The set whose `[` is read.
fn set(rest: &mut Peekable<Chars<'_>>) -> Part {
    let is_negated = rest.next_if(|next| "!^".contains(*next)).is_some();
    let mut members = Vec::new();
    loop {
        let member = match rest.next().unwrap() {
            ']' if !members.is_empty() => return Part::Set { is_negated, members },
            '\\' => rest.next().unwrap(),
            other => other,
        };
        members.push(member);
        if rest.peek() == Some(&'-') && rest.clone().nth(1) != Some(']') {
            let end = rest.nth(1).unwrap();
            members.extend(member..=end);
        }
    }
}

/// Tries all ways to match.
fn naive(parts: &[Part], name: &[char]) -> bool {
    let Some((part, rest)) = parts.split_first() else { return name.is_empty() };
    let next = name.split_first();
    let one = |is_right: &dyn Fn(char) -> bool| {
        next.is_some_and(|(first, left)| is_right(*first) && naive(rest, left))
    };
    match part {
        Part::One(wanted) => one(&|found| found == *wanted),
        Part::AnyOne => one(&|found| found != '/'),
        Part::Set { is_negated, members } => {
            one(&|found| found != '/' && members.contains(&found) != *is_negated)
        }
        Part::WithinSegment => {
            naive(rest, name)
                || next.is_some_and(|(first, left)| *first != '/' && naive(parts, left))
        }
        // At the end one segment or more; before a `/` any number of segments, each with its `/`.
        Part::Segments => match rest {
            [] => true,
            [_, behind @ ..] => {
                let starts = std::iter::once(0)
                    .chain((0..name.len()).filter(|at| name[*at] == '/').map(|at| at + 1));
                starts.into_iter().any(|at| naive(behind, &name[at..]))
            }
        },
    }
}
