//! Checks that the examples of `docs/PROTOCOL.md` are bytes of the golden files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;

const PAGE: &str = include_str!("../docs/PROTOCOL.md");
const TRANSCRIPT: &str = include_str!("../crates/cortex-proto/tests/golden/transcript.json");
const EDGE_VALUES: &str = include_str!("../crates/cortex-proto/tests/golden/edge_values.json");

/// The messages of the page's examples: the hex columns before the explanations.
fn examples() -> Vec<String> {
    let blocks = PAGE.split("```text\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks
        .flat_map(|block| block.split("\n8"))
        .map(|message| {
            let message =
                if message.starts_with('8') { message.into() } else { format!("8{message}") };
            message.lines().map(hex_of_line).collect()
        })
        .collect()
}

/// The hex words at the beginning of a line.
fn hex_of_line(line: &str) -> String {
    let is_hex = |word: &&str| {
        word.len().is_multiple_of(2)
            && word.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
    };
    line.split_whitespace().take_while(is_hex).collect()
}

#[test]
fn every_example_is_in_the_golden_files() {
    let golden: Vec<Value> = [TRANSCRIPT, EDGE_VALUES]
        .into_iter()
        .flat_map(|file| serde_json::from_str::<Vec<Value>>(file).unwrap())
        .collect();
    let known: Vec<_> = golden
        .iter()
        .flat_map(|item| ["request", "reply", "bytes"].map(|key| item[key].as_str()))
        .flatten()
        .collect();
    let examples = examples();
    assert!(examples.len() > 12, "too few examples in the page: {}", examples.len());
    for example in examples {
        assert!(known.contains(&&*example), "{example}");
    }
}
