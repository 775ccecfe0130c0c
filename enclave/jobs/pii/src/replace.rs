//! What stands in a value's place, and the way back.
//!
//! What is keyed is written `[kind:letter:…]`, in letters and digits that no detector takes for anything
//! (base32, RFC 4648, small):
//!
//! - `h`: HMAC-SHA-256 of the value. Equal values are equal; there is no way back but by trying, which needs the key.
//! - `p`: the value under AES-SIV (RFC 5297), which without a nonce is deterministic: equal values are equal, and only
//!   that shows.
//! - `e`: the value under AES-SIV with a random nonce: equal values differ.
//!
//! The kind is authenticated in each. `h` and `p` are made of the value's plain spelling (a card number's digits, an
//! address in small letters), so that one number in two spellings is one pseudonym; `e` keeps the spelling.

use std::borrow::Cow;

use aes_siv::KeyInit;
use aes_siv::siv::Aes256Siv;
use data_encoding::{Encoding, Specification};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::config::{Action, Kind};
use crate::fold::Folded;
use crate::key::Keys;

const NONCE: usize = 16;
/// Of a card number, by the action `mask`.
const SHOWN: usize = 4;

/// The operating system has no randomness to give.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gives no random numbers: {0}")]
pub struct NoRandomness(getrandom::Error);

/// Writes what stands in a value's place.
pub struct Replacer {
    keyed: Option<Keyed>,
    base32: Encoding,
}

struct Keyed {
    hash: Hmac<Sha256>,
    pseudonym: Aes256Siv,
    encryption: Aes256Siv,
}

impl Replacer {
    /// Without keys `hash`, `pseudonymize` and `encrypt` write what `redact` does.
    pub fn new(keys: Option<&Keys>) -> Self {
        let keyed = keys.map(|keys| Keyed {
            hash: <Hmac<Sha256> as KeyInit>::new_from_slice(&keys.hash)
                .expect("HMAC takes keys of any length"),
            pseudonym: Aes256Siv::new(&keys.pseudonym.into()),
            encryption: Aes256Siv::new(&keys.encryption.into()),
        });
        let mut base32 = Specification::new();
        base32.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
        Self {
            keyed,
            base32: base32.encoding().expect("the alphabet is right"),
        }
    }

    /// Appends what stands in the place of a value.
    ///
    /// # Errors
    /// Encryption needs randomness.
    pub fn put(
        &mut self,
        kind: Kind,
        action: Action,
        value: &str,
        out: &mut String,
    ) -> Result<(), NoRandomness> {
        let name = kind.name();
        match (action, &mut self.keyed) {
            (Action::Keep, _) => out.push_str(value),
            (Action::Mask, _) => mask(kind, value, out),
            (Action::Redact, _) | (_, None) => {
                out.push('[');
                out.push_str(&name.to_uppercase());
                out.push(']');
            }
            (Action::Hash, Some(keyed)) => {
                let mut hash = keyed.hash.clone();
                hash.update(name.as_bytes());
                hash.update(&[0]);
                hash.update(plain(kind, value).as_bytes());
                self.token(kind, 'h', &hash.finalize().into_bytes(), out);
            }
            (Action::Pseudonymize, Some(keyed)) => {
                let sealed = keyed
                    .pseudonym
                    .encrypt([name], plain(kind, value).as_bytes())
                    .expect("a line is far below what AES-SIV takes");
                self.token(kind, 'p', &sealed, out);
            }
            (Action::Encrypt, Some(keyed)) => {
                let mut sealed = vec![0; NONCE];
                getrandom::fill(&mut sealed).map_err(NoRandomness)?;
                let ciphertext = keyed
                    .encryption
                    .encrypt([name.as_bytes(), &sealed], value.as_bytes())
                    .expect("a line is far below what AES-SIV takes");
                sealed.extend_from_slice(&ciphertext);
                self.token(kind, 'e', &sealed, out);
            }
        }
        Ok(())
    }

    fn token(&self, kind: Kind, letter: char, bytes: &[u8], out: &mut String) {
        out.push('[');
        out.push_str(kind.name());
        out.push(':');
        out.push(letter);
        out.push(':');
        self.base32.encode_append(bytes, out);
        out.push(']');
    }

    /// The text with values in the places of their pseudonyms and ciphertexts, of these kinds; what is none of this
    /// key's stays as it is. Borrowed where there is nothing to restore.
    pub fn restore<'a>(&mut self, text: &'a str, kinds: &[Kind]) -> Cow<'a, str> {
        let mut out = String::new();
        let mut from = 0;
        for (start, _) in text.match_indices('[') {
            let Some((kind, value, length)) = self.open(&text[start..]) else {
                continue;
            };
            if kinds.contains(&kind) {
                out.push_str(&text[from..start]);
                out.push_str(&value);
                from = start + length;
            }
        }
        if from == 0 {
            return Cow::Borrowed(text);
        }
        out.push_str(&text[from..]);
        Cow::Owned(out)
    }

    /// The token that a text begins with: its kind, its value and its length.
    fn open(&mut self, text: &str) -> Option<(Kind, Zeroizing<String>, usize)> {
        let (name, rest) = text[1..text.floor_char_boundary(8)].split_once(':')?;
        let kind = Kind::named(name)?;
        let letter = rest.chars().next()?;
        let body = text[1 + name.len() + 1..].strip_prefix(letter)?;
        let body = body.strip_prefix(':')?;
        let symbols = body
            .bytes()
            .take_while(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'))
            .count();
        body[symbols..].strip_prefix(']')?;
        let bytes = self.base32.decode(&body.as_bytes()[..symbols]).ok()?;
        let keyed = self.keyed.as_mut()?;
        let value = match letter {
            'p' => keyed.pseudonym.decrypt([name], &bytes).ok()?,
            'e' => {
                let (nonce, ciphertext) = bytes.split_at_checked(NONCE)?;
                keyed
                    .encryption
                    .decrypt([name.as_bytes(), nonce], ciphertext)
                    .ok()?
            }
            _ => return None,
        };
        let length = text.len() - body.len() + symbols + 1;
        Some((kind, Zeroizing::new(String::from_utf8(value).ok()?), length))
    }
}

/// Stars for letters and digits; a whole card number keeps its last four digits.
fn mask(kind: Kind, value: &str, out: &mut String) {
    let digit = |character: char| crate::fold::digit(character).is_some();
    let count = value.chars().filter(|character| digit(*character)).count();
    let hidden = if kind == Kind::Card && count >= 12 {
        count - SHOWN
    } else {
        usize::MAX
    };
    let mut seen = 0;
    for character in value.chars() {
        if digit(character) {
            seen += 1;
            out.push(if seen > hidden { character } else { '*' });
        } else {
            out.push(if character.is_alphanumeric() {
                '*'
            } else {
                character
            });
        }
    }
}

/// A value's plain spelling.
fn plain(kind: Kind, value: &str) -> Zeroizing<String> {
    let folded = Folded::new(value);
    let text = folded.text();
    let only = |keep: fn(&char) -> bool| text.chars().filter(keep).collect::<String>();
    Zeroizing::new(match kind {
        Kind::Card | Kind::Ssn => only(char::is_ascii_digit),
        Kind::Phone => only(|character| character.is_ascii_alphanumeric() || *character == '+'),
        Kind::Iban => only(char::is_ascii_alphanumeric).to_ascii_uppercase(),
        Kind::Email => text.to_lowercase(),
        Kind::Ip => text.to_ascii_lowercase(),
        Kind::Url | Kind::Date | Kind::Zip => text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replacer() -> Replacer {
        Replacer::new(Some(&Keys::new(&[3; 32])))
    }

    fn put(replacer: &mut Replacer, kind: Kind, action: Action, value: &str) -> String {
        let mut out = String::new();
        replacer.put(kind, action, value, &mut out).unwrap();
        out
    }

    #[test]
    fn masks_are_stars_and_a_card_number_keeps_its_last_four_digits() {
        let mut replacer = replacer();
        let mut masked = |kind, value: &str| put(&mut replacer, kind, Action::Mask, value);
        assert_eq!(
            masked(Kind::Card, "4111 1111 1111 1111"),
            "**** **** **** 1111"
        );
        assert_eq!(masked(Kind::Card, "４１１１-11"), "****-**");
        assert_eq!(masked(Kind::Email, "é.b@example.com"), "*.*@*******.***");
    }

    #[test]
    fn pseudonyms_are_equal_for_equal_values_in_any_spelling_and_lead_back_to_the_plain_one() {
        let mut replacer = replacer();
        let mut name = |kind, value| put(&mut replacer, kind, Action::Pseudonymize, value);
        let pseudonym = name(Kind::Card, "4111 1111 1111 1111");
        assert_eq!(pseudonym, name(Kind::Card, "４１１１-1111-1111-1111"));
        assert_ne!(pseudonym, name(Kind::Card, "5555555555554444"));
        assert_ne!(
            name(Kind::Url, "a.example.com")["[url".len()..],
            name(Kind::Email, "a.example.com")["[email".len()..]
        );
        let text = format!("is {pseudonym}.");
        assert_eq!(replacer.restore(&text, &Kind::ALL), "is 4111111111111111.");
    }

    #[test]
    fn ciphertexts_differ_and_lead_back_to_the_very_spelling() {
        let mut replacer = replacer();
        let first = put(&mut replacer, Kind::Phone, Action::Encrypt, "(37) 788-063");
        let second = put(&mut replacer, Kind::Phone, Action::Encrypt, "(37) 788-063");
        assert_ne!(first, second);
        let text = format!("{first}{second}");
        assert_eq!(
            replacer.restore(&text, &[Kind::Phone]),
            "(37) 788-063(37) 788-063"
        );
        assert_eq!(replacer.restore(&text, &[Kind::Email]), text);
    }

    #[test]
    fn hashes_are_equal_for_equal_values_under_one_key_and_never_lead_back() {
        let mut replacer = replacer();
        let hash = put(&mut replacer, Kind::Email, Action::Hash, "Bob@example.com");
        assert_eq!(
            hash,
            put(&mut replacer, Kind::Email, Action::Hash, "bob@example.com")
        );
        assert_eq!(replacer.restore(&hash, &Kind::ALL), hash);
        let mut other = Replacer::new(Some(&Keys::new(&[4; 32])));
        assert_ne!(
            hash,
            put(&mut other, Kind::Email, Action::Hash, "bob@example.com")
        );
    }

    #[test]
    fn what_is_not_of_this_key_or_was_changed_stays_as_it_is() {
        let mut replacer = replacer();
        let sealed = put(
            &mut replacer,
            Kind::Email,
            Action::Pseudonymize,
            "bob@example.com",
        );
        let mut other = Replacer::new(Some(&Keys::new(&[4; 32])));
        assert_eq!(other.restore(&sealed, &Kind::ALL), sealed);
        for changed in [
            sealed.replace("email", "phone"),
            sealed.replace(":p:", ":e:"),
            sealed.replace(":p:", ":h:"),
            sealed.replace(']', ""),
            sealed.replace(":p:", ":p:a"),
            "[email:p:]".to_owned(),
            "[email:é".to_owned(),
            "[[[[é:".to_owned(),
        ] {
            assert_eq!(replacer.restore(&changed, &Kind::ALL), changed);
        }
    }

    #[test]
    fn no_detector_takes_a_replacement_for_anything() {
        let detectors = crate::detect::Detectors::new(|_| true);
        let mut replacer = replacer();
        for kind in Kind::ALL {
            for round in 0..200 {
                for action in [
                    Action::Redact,
                    Action::Hash,
                    Action::Pseudonymize,
                    Action::Encrypt,
                ] {
                    let value = format!("value {round}");
                    let text = put(&mut replacer, kind, action, &value);
                    let found = detectors.text(&text, &crate::detect::Field::default());
                    assert_eq!(found, [], "{text}");
                }
            }
        }
    }
}
