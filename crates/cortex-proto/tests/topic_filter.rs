//! Which names a pattern means: one table for everybody who filters, and what no table shows.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use cortex_proto::{TopicFilter, TopicFilterError};
use proptest::prelude::*;
use serde_json::Value;

#[test]
fn the_table_of_cases() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("golden/filters.json")).unwrap();
    assert!(cases.len() > 50, "the table is whole");
    for case in cases {
        let filter = TopicFilter::new(case["filter"].as_str().unwrap()).unwrap();
        let matches = filter.matches(case["name"].as_str().unwrap());
        assert_eq!(matches, case["matches"].as_bool().unwrap(), "{case}");
    }
}

#[test]
fn what_is_no_pattern_is_told() {
    let told = |pattern: &str| TopicFilter::new(pattern).unwrap_err();
    assert_eq!(told(""), TopicFilterError::Empty);
    assert_eq!(told(&"x".repeat(1025)), TopicFilterError::TooLong { length: 1025 });
    for open in ["/a[", "[!]", "[]", "/[a-", "/[a\\"] {
        assert_eq!(told(open), TopicFilterError::OpenBracket, "{open}");
    }
    assert_eq!(told("/a\\"), TopicFilterError::TrailingBackslash);
    assert_eq!(told("/[z-a]"), TopicFilterError::EmptyRange { start: 'z', end: 'a' });
    for set in ["/[/]", "/[!a/]", "/[+-/]", "/[/-9]"] {
        assert_eq!(told(set), TopicFilterError::SlashInSet, "{set}");
    }
    for (pattern, brace) in [("/{a,b}", '{'), ("/a}", '}')] {
        assert_eq!(told(pattern), TopicFilterError::Brace { brace });
    }
    let alphabet = |count: u32| (0..count).filter_map(|at| char::from_u32(0x4e00 + at));
    assert_eq!(
        told(&alphabet(64).collect::<String>()),
        TopicFilterError::TooManyCharacters { count: 64 }
    );
    let most = alphabet(63).collect::<String>();
    assert!(TopicFilter::new(&*most).unwrap().matches(&most));
}

/// A matcher that tries all ways would not be done in years.
#[test]
fn no_pattern_takes_long() {
    let names = [format!("/{}/x", "a".repeat(1000)), "a/".repeat(500) + "x", "a".repeat(1000)];
    for pattern in [
        "/".to_owned() + &"*a".repeat(500) + "c",
        "**/".repeat(300) + "c",
        "**/a/".repeat(200) + "c",
        "**/*a".repeat(200) + "c",
        "*/".repeat(400) + "c",
        "*?".repeat(500) + "/c",
        "*[ab]".repeat(200) + "c",
        "*".to_owned() + &"a".repeat(500) + "c",
    ] {
        let filter = TopicFilter::new(pattern).unwrap();
        for name in &names {
            assert!(!filter.matches(name));
        }
    }
}

#[test]
fn the_effort_grows_with_what_a_star_has_to_try_again() {
    let effort = |pattern: &str| TopicFilter::new(pattern).unwrap().effort(1000);
    assert_eq!(effort("/camera/left"), 1000);
    assert_eq!(effort("/camera/**"), 1000);
    assert_eq!(effort("/camera/*/image"), 7000);
    assert_eq!(effort(&format!("*{}", "a".repeat(499))), 500_000);
}

proptest! {
    #[test]
    fn a_name_matches_itself_and_nothing_else(name in "[ab/*?{}!,\\[\\]\\\\öä🤖-]{1,8}", other in "[ab/*?{}!,\\[\\]\\\\öä🤖-]{1,8}") {
        let filter = TopicFilter::exactly(&name).unwrap();
        prop_assert!(filter.matches(&name));
        prop_assert_eq!(filter.matches(&other), name == other);
    }

    #[test]
    fn a_pattern_goes_as_the_naive_matcher_says(
        pattern in "([aöб/]|\\?|\\*{1,3}|/\\*\\*/|\\[!?[aöв-д]{1,2}\\]|\\\\[anö*]){1,8}",
        name in "[anöбг*/]{1,8}",
    ) {
        let characters: Vec<_> = name.chars().collect();
        let expected = naive(&parts(&pattern), &characters);
        prop_assert_eq!(TopicFilter::new(&*pattern).unwrap().matches(&name), expected);
    }

    #[test]
    fn whatever_is_a_pattern_can_be_matched(pattern in "\\PC{1,40}", name in "\\PC{1,40}") {
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

/// The pattern in its parts, for the patterns of this test: a set has single characters, or one
/// range.
fn parts(pattern: &str) -> Vec<Part> {
    let mut rest = pattern;
    let mut parts = Vec::new();
    while let Some(first) = rest.chars().next() {
        let is_start = matches!(parts.last(), None | Some(Part::One('/')));
        rest = &rest[first.len_utf8()..];
        parts.push(match first {
            '\\' => {
                let literal = rest.chars().next().unwrap();
                rest = &rest[literal.len_utf8()..];
                Part::One(literal)
            }
            '?' => Part::AnyOne,
            '*' => {
                let behind = rest.trim_start_matches('*');
                let stars = 1 + rest.len() - behind.len();
                rest = behind;
                let is_segment = is_start && (behind.is_empty() || behind.starts_with('/'));
                if is_segment && stars == 2 { Part::Segments } else { Part::WithinSegment }
            }
            '[' => {
                let (inner, behind) = rest.split_once(']').unwrap();
                rest = behind;
                let members = inner.trim_start_matches('!');
                let is_negated = members.len() < inner.len();
                let members = match *members.chars().collect::<Vec<_>>() {
                    [start, '-', end] => (start..=end).collect(),
                    ref single => single.to_vec(),
                };
                Part::Set { is_negated, members }
            }
            other => Part::One(other),
        });
    }
    parts
}

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
        // At the end any segments, one at least; before a `/` any segments, or none with it.
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
