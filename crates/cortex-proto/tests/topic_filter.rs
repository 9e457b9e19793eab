//! Which names a pattern means: one table for everybody who filters, and what no table shows.

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
    for broken in ["/a[", "/{a", "/a\\", "[!]", &"{a,b}".repeat(11)] {
        assert!(matches!(told(broken), TopicFilterError::Malformed { .. }), "{broken}");
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
    let name = format!("/{}/x", "a".repeat(1000));
    for pattern in [
        "/".to_owned() + &"*a".repeat(500) + "c",
        "**/".repeat(300) + "c",
        "/".to_owned() + &"{a*,*a}".repeat(10) + "c",
        "{**/a,*/}".repeat(10) + "c",
        "*?".repeat(500),
    ] {
        assert!(!TopicFilter::new(pattern).unwrap().matches(&name));
    }
}

proptest! {
    #[test]
    fn a_name_matches_itself_and_nothing_else(name in "[ab/*?{}!,\\[\\]\\\\öä🤖-]{1,8}", other in "[ab/*?{}!,\\[\\]\\\\öä🤖-]{1,8}") {
        let filter = TopicFilter::exactly(&name).unwrap();
        prop_assert!(filter.matches(&name));
        prop_assert_eq!(filter.matches(&other), name == other);
    }

    #[test]
    fn a_pattern_of_plain_wildcards_goes_as_the_naive_matcher_says(
        pattern in "[aöб?*/]{1,8}",
        name in "[aöбж/]{1,8}",
    ) {
        // A `**` has rules of its own, which the table shows.
        prop_assume!(!pattern.contains("**"));
        let (p, n): (Vec<_>, Vec<_>) = (pattern.chars().collect(), name.chars().collect());
        let matches = TopicFilter::new(pattern).unwrap().matches(&name);
        prop_assert_eq!(matches, naive(&p, &n));
    }

    #[test]
    fn whatever_is_a_pattern_can_be_matched(pattern in "\\PC{1,40}", name in "\\PC{1,40}") {
        if let Ok(filter) = TopicFilter::new(pattern) {
            let _ = filter.matches(&name);
        }
    }
}

fn naive(pattern: &[char], name: &[char]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some(('*', rest)), head) => {
            naive(rest, name)
                || head.is_some_and(|(first, left)| *first != '/' && naive(pattern, left))
        }
        (Some(('?', rest)), Some((first, left))) => *first != '/' && naive(rest, left),
        (Some((wanted, rest)), Some((first, left))) => wanted == first && naive(rest, left),
        (Some(_), None) | (None, Some(_)) => false,
    }
}
