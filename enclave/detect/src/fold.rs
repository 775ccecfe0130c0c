//! One spelling for what looks alike: decimal digits of all scripts, full-width letters, spaces and dashes become
//! ASCII, and what has no width is left out. Detectors read the folded text, and places are told in the original.
//! Must never lose a place: each folded byte knows where it came from.

use std::borrow::Cow;

/// Where the digits 0 to 9 of each script begin (Unicode's general category Nd, which is closed under tens).
const ZEROS: [u32; 75] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6,
    0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50,
    0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
    0x104a0, 0x10d30, 0x10d40, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0,
    0x11650, 0x116c0, 0x116d0, 0x116da, 0x11730, 0x118e0, 0x11950, 0x11bf0, 0x11c50, 0x11d50,
    0x11da0, 0x11f50, 0x16130, 0x16a60, 0x16ac0, 0x16b50, 0x16d70, 0x1ccf0, 0x1d7ce, 0x1d7d8,
    0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e4f0, 0x1e5f1, 0x1e950, 0x1fbf0,
];

/// The value of a decimal digit of any script; superscript, subscript and circled ones too.
pub fn digit(character: char) -> Option<u8> {
    let code = character as u32;
    if code < 0x80 {
        return character.to_digit(10).map(|value| value as u8);
    }
    let value = match code {
        0xb9 => 1,
        0xb2 => 2,
        0xb3 => 3,
        0x2070 => 0,
        0x2074..=0x2079 => code - 0x2070,
        0x2080..=0x2089 => code - 0x2080,
        0x2460..=0x2468 => code - 0x245f,
        0x24ea => 0,
        0x2776..=0x277e => code - 0x2775,
        _ => {
            let after = ZEROS.partition_point(|zero| *zero <= code);
            let zero = *ZEROS.get(after.checked_sub(1)?)?;
            code - zero
        }
    };
    u8::try_from(value).ok().filter(|value| *value < 10)
}

/// A text and its folded spelling.
pub struct Folded<'a> {
    original: &'a str,
    text: Cow<'a, str>,
    /// For each folded byte, where its character begins in the original. Empty where both are the same.
    places: Vec<usize>,
}

impl<'a> Folded<'a> {
    /// Folds a text.
    pub fn new(original: &'a str) -> Self {
        if original.is_ascii() {
            return Self {
                original,
                text: Cow::Borrowed(original),
                places: Vec::new(),
            };
        }
        let mut text = String::with_capacity(original.len());
        let mut places = Vec::with_capacity(original.len());
        for (place, character) in original.char_indices() {
            if let Some(folded) = fold(character) {
                text.push(folded);
                places.resize(text.len(), place);
            }
        }
        Self {
            original,
            text: Cow::Owned(text),
            places,
        }
    }

    /// The folded text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The original's bytes that the folded bytes `start..end` came from, from the first character to the last.
    pub fn original(&self, start: usize, end: usize) -> (usize, usize) {
        if self.places.is_empty() || start >= end {
            return (start, end);
        }
        let last = self.places[end - 1];
        let length = self.original[last..]
            .chars()
            .next()
            .map_or(0, char::len_utf8);
        (self.places[start], last + length)
    }
}

/// What a character is read as; `None` where it is to be overlooked.
fn fold(character: char) -> Option<char> {
    if character.is_ascii() {
        return Some(character);
    }
    if let Some(value) = digit(character) {
        return Some(char::from(b'0' + value));
    }
    Some(match character {
        // Without width, joiners, directions, variants, strokes through or boxes around a character.
        '\u{ad}'
        | '\u{300}'..='\u{36f}'
        | '\u{61c}'
        | '\u{180b}'..='\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{20d0}'..='\u{20f0}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}'
        | '\u{e0000}'..='\u{e01ef}' => return None,
        '\u{85}' | '\u{2028}' | '\u{2029}' => '\n',
        '\u{2800}' | '\u{3164}' | '\u{115f}' | '\u{1160}' | '\u{ffa0}' => ' ',
        '\u{2010}'..='\u{2015}'
        | '\u{2043}'
        | '\u{2212}'
        | '\u{30fc}'
        | '\u{58a}'
        | '\u{fe31}'
        | '\u{fe32}'
        | '\u{fe58}'
        | '\u{fe63}' => '-',
        '\u{2024}' | '\u{3002}' | '\u{ff61}' => '.',
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(character as u32 - 0xfee0)?,
        _ if character.is_whitespace() => ' ',
        _ => character,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_decimal_digit_of_unicode_is_a_digit_of_its_value() {
        let decimal = regex::Regex::new(r"^\p{Nd}$").unwrap();
        let mut seen = 0;
        let mut run = 0;
        for character in '\u{80}'..=char::MAX {
            let mut buffer = [0; 4];
            if decimal.is_match(character.encode_utf8(&mut buffer)) {
                // Digits stand in tens; five of these follow each other in the mathematical alphabets.
                assert_eq!(digit(character), Some(run % 10), "{character:?}");
                run = (run + 1) % 10;
                seen += 1;
            } else {
                assert_eq!(run, 0, "{character:?}");
            }
        }
        assert_eq!(seen, ZEROS.len() * 10);
    }

    #[test]
    fn places_are_the_originals_whatever_the_width_of_its_characters() {
        let text = "é\u{200b}４\u{a0}２ü";
        let folded = Folded::new(text);
        assert_eq!(folded.text(), "é4 2ü");
        let start = folded.text().find('4').unwrap();
        let (from, to) = folded.original(start, start + 3);
        assert_eq!(&text[from..to], "４\u{a0}２");
    }

    #[test]
    fn text_in_ascii_is_folded_without_a_copy() {
        let folded = Folded::new("plain");
        assert!(matches!(folded.text, Cow::Borrowed(_)));
        assert_eq!(folded.original(1, 3), (1, 3));
    }
}
