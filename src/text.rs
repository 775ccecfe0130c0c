//! Text from images and other files that anybody may have made, for a terminal.

/// The text without what would move a terminal's cursor, change its colours or turn its letters around: such characters
/// are written as their escapes.
pub(crate) fn printable(text: &str) -> String {
    let steers = |character: char| {
        character.is_control()
            || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}')
    };
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if steers(character) {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn what_steers_a_terminal_is_written_out_and_letters_of_all_scripts_stay() {
        assert_eq!(printable("grüße 中文 \\"), "grüße 中文 \\");
        assert_eq!(printable("a\u{1b}[2Jb\r\n"), "a\\u{1b}[2Jb\\r\\n");
        assert_eq!(printable("\u{9b}31m\u{202e}x"), "\\u{9b}31m\\u{202e}x");
    }
}
