//! Telephone numbers: international ones, those of North America, and others with a trunk prefix or an area code in
//! brackets by their form; what has none of that beside words such as `call` alone.

use super::context::{self, Field};
use super::{Candidate, joins};
use crate::Kind;

pub(super) const WORDS: &[&str] = &[
    "phone",
    "telephone",
    "tel",
    "mobile",
    "mobil",
    "cell",
    "cellphone",
    "fax",
    "call",
    "dial",
    "sms",
    "text",
    "whatsapp",
    "ring",
    "reach",
    "contact",
    "hotline",
    "answering",
    "message",
    "telefon",
    "téléphone",
    "telefono",
    "teléfono",
    "handy",
    "landline",
    "phonenumber",
    "voicemail",
];
const NOT_WORDS: &[&str] = &[
    "order",
    "invoice",
    "license",
    "licence",
    "account",
    "id",
    "ref",
    "reference",
    "case",
    "ticket",
    "policy",
    "tracking",
    "ssn",
    "security",
    "zip",
    "card",
    "iban",
    "passport",
    "isbn",
    "amount",
    "serial",
    "vin",
    "version",
    "box",
    "apt",
    "suite",
];
/// Right before or right behind a number.
const AFTER: &[&str] = &[
    "office", "fax", "mobile", "cell", "home", "work", "desk", "tel", "phone", "direct", "landline",
];

const MAX_GROUPS: usize = 8;
const MAX_DIGITS: usize = 20;

#[derive(Clone, Copy, Default)]
struct Group {
    start: usize,
    end: usize,
    in_brackets: bool,
    /// What stands before it: the dash, dot or slash, or a space.
    joint: u8,
}

impl Group {
    fn len(&self) -> usize {
        self.end - self.start
    }
}

struct Row {
    start: usize,
    plus: bool,
    groups: Vec<Group>,
}

pub(super) fn find(text: &str, field: &Field, out: &mut Vec<Candidate>) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let starts = matches!(bytes[at], b'+' | b'(' | b'0'..=b'9');
        if !starts {
            at += 1;
            continue;
        }
        if !may_begin(text, at) {
            at += bytes[at..]
                .iter()
                .take_while(|byte| byte.is_ascii_alphanumeric())
                .count()
                .max(1);
            continue;
        }
        let row = read(bytes, at);
        let Some(first) = row.groups.first() else {
            at += 1;
            continue;
        };
        // Where the row as a whole is no number, one may still begin at its next group.
        let next = first.end;
        match classify(text, &row, field) {
            Some((start, end)) => {
                let end = extension(text, end);
                out.push(Candidate::new(Kind::Phone, start, end));
                at = end;
            }
            None => at = next,
        }
    }
}

/// Whether a number may begin here: not inside of a word or a longer number, and not as an amount.
fn may_begin(text: &str, at: usize) -> bool {
    let mut before = text[..at].chars().rev();
    match before.next() {
        None => true,
        Some('$' | '€' | '£' | '#' | '+' | '%') => false,
        Some('.' | '-' | '/' | ':' | ',') => !before.next().is_some_and(|c| c.is_ascii_digit()),
        Some(')') => !text.as_bytes()[at].is_ascii_digit(),
        Some(character) => !joins(character),
    }
}

/// Groups of digits with at most a space, a mark and a space between them.
fn read(bytes: &[u8], start: usize) -> Row {
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let mut row = Row {
        start,
        plus: byte(start) == b'+',
        groups: Vec::with_capacity(MAX_GROUPS),
    };
    let mut at = start + usize::from(row.plus);
    let mut joint = 0;
    let mut digits = 0;
    while row.groups.len() < MAX_GROUPS {
        let in_brackets = byte(at) == b'(';
        at += usize::from(in_brackets);
        if in_brackets && row.groups.is_empty() && byte(at) == b'+' {
            row.plus = true;
            at += 1;
        }
        let length = bytes[at.min(bytes.len())..]
            .iter()
            .take(MAX_DIGITS + 1)
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        digits += length;
        let end = at + length;
        if length == 0 || digits > MAX_DIGITS || (in_brackets && byte(end) != b')') {
            break;
        }
        row.groups.push(Group {
            start: at,
            end,
            in_brackets,
            joint,
        });
        at = end + usize::from(in_brackets);
        let before = at;
        joint = 0;
        if byte(at) == b' ' {
            at += 1;
            joint = b' ';
        }
        if matches!(byte(at), b'-' | b'.' | b'/') {
            joint = byte(at);
            at += 1;
            if byte(at) == b' ' {
                at += 1;
            }
        }
        let may_adjoin = in_brackets || byte(at) == b'(';
        if before == at && !may_adjoin {
            break;
        }
    }
    row
}

/// Where the number in a row begins and ends.
fn classify(text: &str, row: &Row, field: &Field) -> Option<(usize, usize)> {
    let groups = &row.groups;
    let bytes = text.as_bytes();
    // A bracket belongs to the number of its group.
    let starts = |group: &Group| group.start - usize::from(group.in_brackets);
    let may_end = |group: &Group| {
        let rest = &text[group.end..];
        let mut rest = rest.chars();
        match rest.next() {
            Some('%' | '°') => false,
            Some('.' | ',' | ':') => !rest.next().is_some_and(|c| c.is_ascii_digit()),
            Some('x' | 'X') => rest.next().is_some_and(|c| c.is_ascii_digit()),
            Some(character) => !joins(character),
            None => true,
        }
    };
    // The digits up to each group.
    let mut sum = 0;
    let sums: Vec<usize> = groups
        .iter()
        .map(|group| {
            sum += group.len();
            sum
        })
        .collect();
    let up_to = |range: std::ops::RangeInclusive<usize>| {
        (0..groups.len())
            .rev()
            .find(|index| range.contains(&sums[*index]) && may_end(&groups[*index]))
    };

    // International: a plus or two zeros, a country code, up to 15 digits (E.164).
    let first = groups.first()?;
    let zeros =
        bytes[first.start..].starts_with(b"00") && bytes.get(first.start + 2) != Some(&b'0');
    if row.plus || zeros {
        let prefix = if row.plus { 0 } else { 2 };
        let american = bytes.get(first.start + prefix) == Some(&b'1');
        let exact = 11 + prefix;
        let end = american
            .then(|| up_to(exact..=exact))
            .flatten()
            .or_else(|| up_to(8 + prefix..=15 + prefix));
        if let Some(end) = end
            && (row.plus || groups.len() > 1 || context(text, row, field))
        {
            return Some((row.start, groups[end].end));
        }
    }
    // North America: three, three and four digits, perhaps a 1 before.
    let lengths: Vec<usize> = groups.iter().map(Group::len).collect();
    let american = lengths.windows(3).position(|three| three == [3, 3, 4]);
    if let Some(at) = american
        && at <= 1
        && may_end(&groups[at + 2])
        && !groups[at + 1..=at + 2]
            .iter()
            .any(|group| group.joint == b'/')
        && (at == 0
            || matches!(groups[at].joint, b' ' | 0)
            || &text[groups[0].start..groups[0].end] == "1")
        && groups
            .get(at + 3)
            .is_none_or(|next| matches!(next.joint, b' ' | 0))
    {
        let one = at == 1 && &text[groups[0].start..groups[0].end] == "1";
        let start = if one { row.start } else { starts(&groups[at]) };
        return Some((start, groups[at + 2].end));
    }
    let last = groups.len() - 1;
    let whole = groups.iter().all(|group| group.len() >= 2) && may_end(&groups[last]);
    // `03262 2437 Main St`: the number of a house.
    let street = text[groups[last].end..]
        .strip_prefix(' ')
        .is_some_and(|rest| rest.starts_with(char::is_uppercase));
    let no_slash = groups.iter().all(|group| group.joint != b'/');
    let end = groups[last].end;
    // A trunk prefix, or an area code in brackets.
    let trunk = text[first.start..].starts_with('0') && !zeros;
    if whole && no_slash && groups.len() > 1 && first.len() <= 5 {
        if trunk
            && !first.in_brackets
            && first.len() >= 2
            && (9..=12).contains(&sum)
            && !(street && groups.len() == 2)
        {
            return Some((row.start, end));
        }
        if first.in_brackets && (8..=12).contains(&sum) {
            return Some((row.start, end));
        }
    }
    // The rest by the words around.
    let behind = context::word_after(text, end).to_lowercase();
    let named = text[end..].len() > behind.len() && AFTER.contains(&&*behind);
    let one_line = !text[end..].starts_with('\n');
    if whole
        && (7..=15).contains(&sum)
        && groups.len() <= 6
        && ((named && one_line) || context(text, row, field))
    {
        return Some((row.start, end));
    }
    None
}

fn context(text: &str, row: &Row, field: &Field) -> bool {
    let label = text[..row.start].trim_end_matches([' ', ':', '.', '\n', '\t']);
    let label = context::word_before(label, label.len());
    if AFTER.contains(&&*label.to_ascii_lowercase()) {
        return true;
    }
    context::before(text, row.start, field, WORDS, NOT_WORDS)
}

/// Where an extension ends that follows; the same place where none does.
fn extension(text: &str, end: usize) -> usize {
    let rest = &text[end..];
    let body = rest.strip_prefix(' ').unwrap_or(rest);
    let small = body
        .get(..9.min(body.len()))
        .unwrap_or("")
        .to_ascii_lowercase();
    let Some(word) = ["extension", "ext.", "ext", "x"]
        .into_iter()
        .find(|word| small.starts_with(word))
    else {
        return end;
    };
    let after = &body[word.len()..];
    let number = after.strip_prefix(' ').unwrap_or(after);
    let digits = number
        .bytes()
        .take(7)
        .take_while(u8::is_ascii_digit)
        .count();
    if (1..=6).contains(&digits) && !number[digits..].starts_with(joins) {
        text.len() - number.len() + digits
    } else {
        end
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, found_in};

    #[test]
    fn numbers_are_found_by_their_form() {
        for (text, expected) in [
            ("at 780-999-2181", "780-999-2181"),
            ("(579)888-3058 x", "(579)888-3058"),
            ("930.167.3943", "930.167.3943"),
            ("+1-903-140-4508x769", "+1-903-140-4508x769"),
            ("001-518-640-0854", "001-518-640-0854"),
            ("1 212 555 0123, ok", "1 212 555 0123"),
            ("+46 (0)8 928 571 38", "+46 (0)8 928 571 38"),
            ("+447700677662", "+447700677662"),
            ("+49 30 901820", "+49 30 901820"),
            ("0490 75 40 81", "0490 75 40 81"),
            ("03.93.92.16.85", "03.93.92.16.85"),
            ("(71) 4233-6306", "(71) 4233-6306"),
            ("212-555-0123 ext. 45", "212-555-0123 ext. 45"),
            ("電話+81 3 1234 5678です", "+81 3 1234 5678"),
            ("＋４９ ３０ ９０１８２０", "＋４９ ３０ ９０１８２０"),
        ] {
            assert_eq!(found(text), [format!("phone:{expected}")], "{text}");
        }
    }

    #[test]
    fn weak_forms_are_found_beside_words_alone() {
        assert_eq!(found("call me on 467 3395?"), ["phone:467 3395"]);
        assert_eq!(found("Fax: 9498777106"), ["phone:9498777106"]);
        assert_eq!(found("Desk: 5403926876"), ["phone:5403926876"]);
        assert_eq!(found("655 437 108 office"), ["phone:655 437 108"]);
        assert_eq!(found_in("4673395", "homePhone"), ["phone:4673395"]);
        for text in [
            "467 3395",
            "9498777106",
            "call about order 4673395",
            "license 6940579",
        ] {
            assert_eq!(found(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn other_numbers_are_no_telephone_numbers() {
        for text in [
            "$905-674-3793",
            "1234-905-674-37931",
            "3.14159265",
            "2270-66-1551",
            "12 345 678 items",
            "1,234,567",
            "offices are at 6556 106 Rue",
            "to 03262 2437 Main St",
            "100-200-300",
            "12:30-13:45",
            "0.1234 0.5678",
        ] {
            assert_eq!(found(text), Vec::<String>::new(), "{text}");
        }
    }
}
