//! E-mail addresses (RFC 5321, and RFC 6531 for other scripts), found from their `@`. Quoted local parts and
//! address literals are not looked for.

use super::{Candidate, web};
use crate::Kind;

/// Longer local parts (64 bytes are allowed) are found by their end.
const MAX_LOCAL: usize = 256;

pub(super) fn find(text: &str, out: &mut Vec<Candidate>) {
    for (at, _) in text.match_indices('@') {
        let Some(start) = local(text, at) else {
            continue;
        };
        if let Some(end) = domain(text, at + 1) {
            out.push(Candidate {
                divisible: true,
                ..Candidate::new(Kind::Email, start, end)
            });
        }
    }
}

fn local(text: &str, at: usize) -> Option<usize> {
    let window = &text[text.ceil_char_boundary(at.saturating_sub(MAX_LOCAL))..at];
    let allowed = |character: char| {
        character.is_alphanumeric() || matches!(character, '.' | '_' | '%' | '+' | '-' | '\'')
    };
    let local = window
        .rfind(|character| !allowed(character))
        .map_or(window, |index| {
            &window[window.ceil_char_boundary(index + 1)..]
        });
    let begun = local.trim_start_matches(|character: char| {
        !character.is_alphanumeric() && !matches!(character, '_' | '+')
    });
    (!begun.is_empty() && !begun.ends_with('.')).then(|| at - begun.len())
}

fn domain(text: &str, start: usize) -> Option<usize> {
    let host = web::host(&text[start..]);
    let labels: Vec<&str> = host.split('.').collect();
    if labels.len() < 2 || labels.iter().any(|label| !web::is_label(label)) {
        return None;
    }
    let names = |label: &str| {
        label.starts_with("xn--")
            || (label.chars().count() >= 2 && label.chars().all(char::is_alphabetic))
    };
    // `x.com.Then`: a sentence that begins without a space.
    let mut count = labels.len();
    if count > 2
        && !web::is_top_level(labels[count - 1])
        && labels[count - 1].starts_with(char::is_uppercase)
        && web::is_top_level(labels[count - 2])
    {
        count -= 1;
    }
    while count > 1 && !names(labels[count - 1]) {
        count -= 1;
    }
    (count > 1).then(|| start + labels[..count].join(".").len())
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;

    #[test]
    fn addresses_are_found_with_what_belongs_to_them() {
        for (text, expected) in [
            ("to bob@example.com.", "bob@example.com"),
            (
                "<bob.o'neil+tag@mail.example.co.uk>",
                "bob.o'neil+tag@mail.example.co.uk",
            ),
            ("email='x_1@host.internal'", "x_1@host.internal"),
            ("bob@example.com.Then he", "bob@example.com"),
            ("用户@例子.公司", "用户@例子.公司"),
            (
                "ｂｏｂ＠ｅｘａｍｐｌｅ．ｃｏｍ",
                "ｂｏｂ＠ｅｘａｍｐｌｅ．ｃｏｍ",
            ),
            ("b\u{200b}ob@example.com", "b\u{200b}ob@example.com"),
            ("mailto:a@b.de?subject=x", "a@b.de"),
        ] {
            assert_eq!(found(text), [format!("email:{expected}")], "{text}");
        }
    }

    #[test]
    fn an_at_sign_alone_is_no_address() {
        for text in [
            "@handle",
            "a @ b",
            "x@localhost",
            "user@@",
            "3 @ 4.50",
            "a@b..",
            ".@a.com",
        ] {
            assert_eq!(
                found(text)
                    .iter()
                    .filter(|found| found.starts_with("email"))
                    .count(),
                0,
                "{text}"
            );
        }
    }
}
