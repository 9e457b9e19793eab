//! The comparison of a name with a parsed pattern, in bounded time.
//!
//! `**` among segments and `*` among the characters of a segment follow the same rule, so one
//! algorithm serves both levels. When an item of the pattern does not match, the search goes back to
//! the last wildcard, which then takes one element more. An earlier wildcard need not change: the
//! items between the two already match as early as they can.
//!
//! As a wildcard only ever takes more, the same item meets the same element at most once. This
//! bounds a match by the pattern's length times the name's.

/// What a name must have where the pattern has one segment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum SegmentPattern {
    /// One segment with these characters.
    One(Vec<CharPattern>),
    /// Any number of segments, or none.
    Any,
}

/// What a segment must have where the pattern has one character, set or star.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum CharPattern {
    /// This character.
    Literal(char),
    /// Exactly one character.
    One,
    /// One character inside one of the ranges, or outside all of them. A range includes its ends.
    Set { is_negated: bool, ranges: Vec<(char, char)> },
    /// Any number of characters, or none.
    Any,
}

/// Whether the whole text matches.
pub(super) fn matches(pattern: &[SegmentPattern], text: &str) -> bool {
    matches_sequence(pattern, Segments { rest: Some(text) })
}

/// The most comparisons for each byte of a text, the search for slashes included.
pub(super) fn cost_per_byte(pattern: &[SegmentPattern]) -> usize {
    let comparisons = pattern.iter().map(|segment| match segment {
        SegmentPattern::One(characters) => characters.iter().map(CharPattern::cost).sum(),
        SegmentPattern::Any => 0,
    });
    let slashes = pattern.len().saturating_sub(1);
    slashes + comparisons.sum::<usize>()
}

/// An item of a pattern on one of the two levels.
trait PatternItem<Element> {
    /// Whether the item is a wildcard for any number of elements.
    fn is_any_number(&self) -> bool;

    /// Whether the item matches this one element.
    fn matches(&self, element: Element) -> bool;
}

fn matches_sequence<Element: Copy>(
    pattern: &[impl PatternItem<Element>],
    elements: impl Iterator<Item = Element> + Clone,
) -> bool {
    let (mut items, mut elements) = (pattern, elements);
    // The items after the last wildcard, and the elements that it has not taken.
    let mut retry = None;
    loop {
        while let [first, rest @ ..] = items
            && first.is_any_number()
        {
            if rest.is_empty() {
                return true;
            }
            items = rest;
            retry = Some((rest, elements.clone()));
        }
        match (items, elements.next()) {
            ([], None) => return true,
            // Too few elements are left, and a retry would leave fewer.
            ([_, ..], None) => return false,
            ([first, rest @ ..], Some(element)) if first.matches(element) => items = rest,
            (_, Some(_)) => {
                let Some((after_wildcard, not_taken)) = &mut retry else { return false };
                not_taken.next();
                (items, elements) = (after_wildcard, not_taken.clone());
            }
        }
    }
}

impl PatternItem<&str> for SegmentPattern {
    fn is_any_number(&self) -> bool {
        matches!(self, Self::Any)
    }

    fn matches(&self, segment: &str) -> bool {
        match self {
            Self::One(characters) => matches_sequence(characters, segment.chars()),
            Self::Any => true,
        }
    }
}

impl PatternItem<char> for CharPattern {
    fn is_any_number(&self) -> bool {
        matches!(self, Self::Any)
    }

    fn matches(&self, character: char) -> bool {
        #[cfg(test)]
        tests::count(self.cost());
        match self {
            Self::Literal(literal) => *literal == character,
            Self::One | Self::Any => true,
            Self::Set { is_negated, ranges } => {
                let is_member =
                    ranges.iter().any(|&(start, end)| (start..=end).contains(&character));
                is_member != *is_negated
            }
        }
    }
}

impl CharPattern {
    /// The most comparisons with one character.
    fn cost(&self) -> usize {
        match self {
            Self::Literal(_) | Self::One => 1,
            Self::Set { ranges, .. } => ranges.len(),
            Self::Any => 0,
        }
    }
}

/// The segments of a text. `str::split` does the same, but costs more to start and segments are
/// short.
#[derive(Clone)]
struct Segments<'a> {
    /// What follows the last slash that was found; `None` after the last segment.
    rest: Option<&'a str>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.rest?;
        let slash = text.bytes().position(|byte| byte == b'/');
        let (segment, rest) = match slash {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        #[cfg(test)]
        tests::count(segment.len() + 1);
        self.rest = rest;
        Some(segment)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use crate::TopicFilter;

    thread_local! {
        static COMPARISONS: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn count(comparisons: usize) {
        COMPARISONS.set(COMPARISONS.get() + comparisons);
    }

    /// Matches the name and checks that this took no more comparisons than the bound.
    fn matches_in_bound(pattern: &str, name: &str) -> bool {
        let filter = TopicFilter::new(pattern).unwrap();
        COMPARISONS.set(0);
        let is_match = filter.matches(name);
        let comparisons = COMPARISONS.get();
        // Slashes divide one item more than there are slashes, and after the last item the end of
        // the pattern meets a segment.
        let ended = name.len() + 1;
        let bound = filter.match_cost(ended) + 2 * ended;
        assert!(comparisons <= bound, "{comparisons} > {bound}: {pattern} against {name}");
        assert!(filter.match_cost(name.len()) <= pattern.chars().count() * name.len(), "{pattern}");
        is_match
    }

    #[test]
    fn hard_patterns_stay_within_the_bound() {
        let names = ["a".repeat(1024), "a/".repeat(512), "aaaaaaa/".repeat(128)];
        for pattern in [
            "*a".repeat(127) + "b",
            format!("*{}b", "a".repeat(254)),
            "*?".repeat(127) + "/b",
            "*[ab]".repeat(51) + "c",
            "[a-bc-d]".repeat(32),
            format!("*{}c", "[bcdefghia]".repeat(23)),
            "**/".repeat(85) + "c",
            "**/a/".repeat(51) + "c",
            "**/*a/".repeat(42) + "c",
            format!("**/{}b", "a/".repeat(126)),
            format!("**/{}b", "*a/".repeat(84)),
            format!("**/{}b", "*aaaaa*aaaaa/".repeat(19)),
            "*/".repeat(127) + "c",
        ] {
            for name in &names {
                assert!(!matches_in_bound(&pattern, name), "{pattern} against {name}");
            }
        }
    }

    #[test]
    fn the_search_is_as_long_as_the_bound_says() {
        // Each of the 254 characters after the star meets nearly each of the name's.
        assert!(!matches_in_bound(&format!("*{}b", "a".repeat(254)), &"a".repeat(1024)));
        let comparisons = COMPARISONS.get();
        assert!(comparisons > 254 * 700, "{comparisons} comparisons");
    }

    proptest! {
        #[test]
        fn any_pattern_stays_within_the_bound(
            pattern in vec("[ab/?*]|\\*\\*|/\\*\\*/|a\\*|\\[!?[abc]{1,3}\\]", 1..40),
            name in "[ab/]{1,200}",
        ) {
            matches_in_bound(&pattern.concat(), &name);
        }
    }
}
