//! International bank account numbers (ISO 13616): a country of SWIFT's registry, its length, and the check by 97,
//! in any case, with single spaces or dashes between.

use super::{Candidate, begins, ends};
use crate::Kind;

/// Countries and the lengths of their numbers, from the IBAN registry.
const LENGTHS: &[(&[u8; 2], u8)] = &[
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BI", 27),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DJ", 27),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FK", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HN", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MN", 20),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NI", 28),
    (b"NL", 18),
    (b"NO", 15),
    (b"OM", 23),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"RU", 33),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"SO", 23),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"VG", 24),
    (b"XK", 20),
    (b"YE", 30),
];

pub(super) fn find(text: &str, out: &mut Vec<Candidate>) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at + 4 < bytes.len() {
        let heads = bytes[at].is_ascii_alphabetic() && bytes[at + 1].is_ascii_alphabetic();
        if heads
            && begins(text, at)
            && let Some(end) = number(bytes, at)
            && ends(text, end)
        {
            out.push(Candidate {
                divisible: true,
                ..Candidate::new(Kind::Iban, at, end)
            });
            at = end;
        } else {
            at += 1;
        }
    }
}

/// Where the number ends that begins here.
fn number(bytes: &[u8], start: usize) -> Option<usize> {
    let country = [bytes[start], bytes[start + 1]].map(|byte| byte.to_ascii_uppercase());
    let place = LENGTHS
        .binary_search_by(|(name, _)| name.as_slice().cmp(&country))
        .ok()?;
    let wanted = usize::from(LENGTHS[place].1);
    let mut characters = [0; 34];
    let mut count = 0;
    let mut at = start;
    let mut separated = true;
    while count < wanted {
        match *bytes.get(at)? {
            byte if byte.is_ascii_alphanumeric() => {
                characters[count] = byte;
                count += 1;
                separated = false;
            }
            b' ' | b'-' | b'.' if !separated => separated = true,
            _ => return None,
        }
        at += 1;
    }
    let digits = characters[2..4].iter().all(u8::is_ascii_digit);
    (digits && remainder(&characters[..wanted]) == 1).then_some(at)
}

/// ISO 7064, MOD 97-10: the first four go to the end, letters are 10 to 35.
fn remainder(characters: &[u8]) -> u32 {
    let (head, rest) = characters.split_at(4);
    rest.iter().chain(head).fold(0, |sum, byte| {
        let value = u32::from(match byte {
            b'0'..=b'9' => byte - b'0',
            _ => byte.to_ascii_uppercase() - b'A' + 10,
        });
        (sum * if value > 9 { 100 } else { 10 } + value) % 97
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    #[test]
    fn numbers_of_many_countries_are_found_in_any_spelling() {
        for number in [
            "GB82WEST12345698765432",
            "gb82west12345698765432",
            "GB82 WEST 1234 5698 7654 32",
            "DE89 3704 0044 0532 0130 00",
            "FR14-2004-1010-0505-0001-3M02-606",
            "NO93 8601 1117 947",
            "MT84 MALT 0110 0001 2345 MTLC AST0 01S",
            "ＧＢ８２ＷＥＳＴ１２３４５６９８７６５４３２",
        ] {
            assert_eq!(
                found(&format!("pay {number} now")),
                [format!("iban:{number}")]
            );
        }
    }

    #[test]
    fn a_wrong_check_country_or_length_is_no_account_number() {
        for text in [
            "GB83WEST12345698765432",
            "ZZ82WEST12345698765432",
            "GB82WEST1234569876543",
            "XGB82WEST12345698765432",
            "GB82WEST12345698765432X",
        ] {
            assert!(
                !found(text).iter().any(|found| found.starts_with("iban")),
                "{text}"
            );
        }
    }

    #[test]
    fn the_registry_is_in_order() {
        assert!(LENGTHS.is_sorted());
        assert!(LENGTHS.iter().all(|(_, length)| *length <= 34));
    }
}
