//! The words beside a number that say what it is. Must never look further than a few words back.

/// How far back words count, in bytes.
const REACH: usize = 44;

/// A JSON field's name, taken apart into words: `homePhone` and `home_phone` are `home phone`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Field(String);

impl Field {
    /// No name.
    pub const NONE: Self = Self(String::new());

    /// Takes a name apart. Text outside of JSON has none.
    pub fn named(name: &str) -> Self {
        let mut words = String::with_capacity(name.len() + 4);
        let mut small = false;
        for character in name.chars().take(64) {
            if character.is_alphanumeric() {
                if small && character.is_uppercase() {
                    words.push(' ');
                }
                words.extend(character.to_lowercase());
            } else {
                words.push(' ');
            }
            small = character.is_lowercase();
        }
        Self(words)
    }

    /// Whether one of these words is in the name.
    pub(super) fn names(&self, words: &[&str]) -> bool {
        !self.0.is_empty() && last(&self.0, words).is_some()
    }
}

/// Whether the nearest word before `at` that is in either list is in `for_it`; without one, whether the field's name
/// has one.
pub(super) fn before(
    text: &str,
    at: usize,
    field: &Field,
    for_it: &[&str],
    against: &[&str],
) -> bool {
    let window = window(text, at).to_ascii_lowercase();
    match (last(&window, for_it), last(&window, against)) {
        (Some(good), Some(bad)) => good > bad,
        (Some(_), None) => true,
        (None, Some(_)) => false,
        (None, None) => field.names(for_it),
    }
}

/// What stands before, as far as words count.
pub(super) fn window(text: &str, at: usize) -> &str {
    &text[text.floor_char_boundary(at.saturating_sub(REACH))..at]
}

/// Where the last of these words ends that stands there as a whole, a plural `s` aside.
fn last(text: &str, words: &[&str]) -> Option<usize> {
    words
        .iter()
        .filter_map(|word| {
            text.rmatch_indices(word).find_map(|(start, _)| {
                let end = start + word.len();
                let letter = |character: char| character.is_alphabetic();
                let rest = &text[end..];
                let rest = rest.strip_prefix('s').unwrap_or(rest);
                let whole = !text[..start].ends_with(letter)
                    && (!text[end..].starts_with(letter) || !rest.starts_with(letter));
                whole.then_some(end)
            })
        })
        .max()
}

/// The word that ends right before `at`, white space aside.
pub(super) fn word_before(text: &str, at: usize) -> &str {
    let window = window(text, at).trim_end();
    let start = window
        .rfind(|character: char| !character.is_alphanumeric())
        .map_or(0, |index| window.ceil_char_boundary(index + 1));
    &window[start..]
}

/// The word that begins right behind `at`, after at most two characters of other kinds.
pub(super) fn word_after(text: &str, at: usize) -> &str {
    let rest = &text[at..];
    let skipped = rest
        .char_indices()
        .take(3)
        .find(|(_, character)| character.is_alphanumeric())
        .map_or(rest.len(), |(index, _)| index);
    let rest = &rest[skipped..];
    let end = rest
        .char_indices()
        .take(24)
        .find(|(_, character)| !character.is_alphanumeric())
        .map_or_else(|| rest.floor_char_boundary(24), |(index, _)| index);
    &rest[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_decides() {
        let none = Field::default();
        let ask = |text: &str| before(text, text.len(), &none, &["phone", "call"], &["order"]);
        assert!(ask("phone: "));
        assert!(ask("his order came late; call "));
        assert!(!ask("call about order "));
        assert!(!ask("telephones and recalled "));
        assert!(ask("Phones "));
        assert!(!ask(&format!("phone {}", "é".repeat(REACH))));
    }

    #[test]
    fn a_fields_name_counts_in_whatever_way_it_is_written() {
        for name in ["homePhone", "home_phone", "PHONE", "phone-1"] {
            assert!(Field::named(name).names(&["phone"]), "{name}");
        }
        for name in ["telephony", "", "hotel"] {
            assert!(!Field::named(name).names(&["phone", "tel"]), "{name}");
        }
    }
}
