//! Escapes text that comes from other programs, for terminals and shells.

use std::borrow::Cow;

/// Escapes control characters, invisible characters, and characters that change the direction of
/// text. Without this, a topic name could look like another name or control the terminal.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(needs_escape) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if needs_escape(character) {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

fn needs_escape(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// Quotes the text as one word of a shell command, if it needs quotes.
pub(crate) fn shell_quote(text: &str) -> Cow<'_, str> {
    let plain =
        |character: char| character.is_ascii_alphanumeric() || "/:._-@+,=".contains(character);
    if !text.is_empty() && text.chars().all(plain) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("'{}'", text.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_control_characters_are_escaped() {
        for (raw, shown) in [
            ("/camera/image", "/camera/image"),
            ("/größe/图像", "/größe/图像"),
            ("a\nb\tc\r", "a\\nb\\tc\\r"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("\u{9b}31m\u{7f}\0", "\\u{9b}31m\\u{7f}\\u{0}"),
            ("a\u{202e}b\u{200b}", "a\\u{202e}b\\u{200b}"),
        ] {
            assert_eq!(escape(raw), shown);
        }
    }

    #[test]
    fn words_are_quoted_only_where_needed() {
        assert_eq!(shell_quote("ipc:///tmp/a-b_c.sock"), "ipc:///tmp/a-b_c.sock");
        assert_eq!(shell_quote("ipc:///tmp/my files"), "'ipc:///tmp/my files'");
        assert_eq!(shell_quote("it's $HOME"), r"'it'\''s $HOME'");
    }
}
