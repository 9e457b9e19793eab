//! Bytes as hexadecimal digits.

use std::fmt::Write as _;

/// Encodes each byte as two digits.
///
/// # Panics
/// Never: writing to a `String` cannot fail.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

/// Decodes the output of [`encode`].
///
/// # Panics
/// When the text contains other characters.
#[must_use]
pub fn decode(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}
