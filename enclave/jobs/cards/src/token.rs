//! Tokens: what stands for a card number outside, and the key that makes them.
//!
//! A token is the number's digits but the last, encrypted by FF1 (NIST SP 800-38G, radix 10, AES-256), and then
//! one digit that is *not* the check digit those digits would have, but the next one (modulo 10). So:
//!
//! - it has as many digits as the number and fits every field that the number fits;
//! - it can never be taken for a card number, as its check digit is always wrong;
//! - every number has one token and every token one number: FF1 permutes the digits before the last, and the
//!   last is a function of those on both sides. Equal numbers have equal tokens, so that tables still join;
//! - of ten random numbers of that length nine are no token at all, which catches most typing errors.
//!
//! All digits are encrypted, the first six and the last four too. Keeping those ten readable, as many tokens do,
//! would leave six of sixteen digits: a million possibilities, the least that SP 800-38G allows, and few enough
//! that one known key use after another narrows them down. With all of them there are at least 10^11. What the
//! last four digits are wanted for, the output's own field `last4` serves.
//!
//! The tweak is constant: with one that differs, say by merchant, equal numbers would no longer have equal tokens.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aes::Aes256Enc;
use aes::cipher::{
    BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, Key, KeyInit, KeySizeUser,
};
use fpe::ff1::{FF1, NumeralString, Operations};
use zeroize::{Zeroize, Zeroizing};

use crate::card::{CardNumber, MAX_DIGITS, MIN_DIGITS, check_digit};

/// Where the enclave puts the key.
pub const KEY_PATH: &str = "/run/secrets/tokenization-key";

const RADIX: u32 = 10;
/// Short enough to share a cipher block with the digits.
const TWEAK: &[u8] = b"cards/1";

/// The key is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error(
        "cannot read the tokenization key {}: {source}; name the secret `tokenization-key` in anchorhold.toml and hand its sealed bytes in",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The runtime does not give it.
    #[error("the runtime does not give the tokenization key: {0}")]
    Runtime(#[from] anchorhold_job::Error),
    /// The ciphertext in the settings is none.
    #[error("key.data-key in [job.settings] is not base64")]
    Ciphertext,
    /// What the runtime gave is something else.
    #[error(
        "the tokenization key that the runtime gave is {length} bytes of something else than a key; it must be 32 raw bytes or 64 hex digits"
    )]
    Given {
        /// How many bytes.
        length: usize,
    },
    /// The file holds something else.
    #[error(
        "the tokenization key {} is {length} bytes of something else than a key; it must be 32 raw bytes or 64 hex digits (`openssl rand -hex 32` makes them)",
        path.display()
    )]
    Form {
        /// The file.
        path: PathBuf,
        /// How many bytes it has; more than 66 are not counted.
        length: usize,
    },
}

/// Why a text is no token. Holds no digit of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAToken {
    /// Nothing.
    #[error("the record has no token")]
    Missing,
    /// A character that is no digit.
    #[error("the token has something else than a digit at its character {position}")]
    Characters {
        /// Which character, from 1.
        position: usize,
    },
    /// No token has that length.
    #[error(
        "the token has {digits} digits; tokens have {MIN_DIGITS} to {MAX_DIGITS}, as card numbers do"
    )]
    Length {
        /// How many digits there are.
        digits: usize,
    },
    /// The last digit is not the one that a token has.
    #[error(
        "this is not a token: its last digit does not belong to the others, so a digit was mistyped, or it is a card number"
    )]
    CheckDigit,
    /// What it stands for is no card number.
    #[error(
        "this token stands for no card number: a digit was mistyped, or it was made under another key"
    )]
    Number,
}

impl NotAToken {
    /// The error's code in the output.
    pub fn code(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Characters { .. } => "characters",
            Self::Length { .. } => "length",
            Self::CheckDigit | Self::Number => "token",
        }
    }
}

/// A token's digits, or a number's, as text. Wiped on drop; no Debug.
pub struct DigitText {
    text: [u8; MAX_DIGITS],
    length: usize,
}

impl DigitText {
    fn new(digits: impl Iterator<Item = u8>) -> Self {
        let mut text = Self {
            text: [0; MAX_DIGITS],
            length: 0,
        };
        for digit in digits.take(MAX_DIGITS) {
            text.text[text.length] = b'0' + digit;
            text.length += 1;
        }
        text
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.length]).expect("digits are ASCII")
    }
}

impl Drop for DigitText {
    fn drop(&mut self) {
        self.text.zeroize();
    }
}

/// Makes tokens of numbers and numbers of tokens, under one key. Wiped on drop; no Debug.
pub struct Tokenizer(FF1<Aes>);

impl Tokenizer {
    /// Sets a key up.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(FF1::new(key, RADIX).expect("10 is a radix"))
    }

    /// Reads the key's file: 32 raw bytes, or 64 hex digits and perhaps a line end.
    ///
    /// # Errors
    /// [`KeyError`], which says what to do.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        // One more than the longest form, so that a longer file is seen to be longer.
        let mut bytes = Zeroizing::new([0; 67]);
        let length = File::open(path)
            .and_then(|file| read_up_to(file, bytes.as_mut_slice()))
            .map_err(|source| KeyError::Read {
                path: path.to_owned(),
                source,
            })?;
        parse_key(&bytes[..length])
            .map(|key| Self::new(&key))
            .ok_or_else(|| KeyError::Form {
                path: path.to_owned(),
                length,
            })
    }

    /// The key as the runtime gives it: 32 raw bytes, or 64 hex digits and perhaps a line end.
    ///
    /// # Errors
    /// [`KeyError::Given`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let length = bytes.len();
        let key = parse_key(bytes).ok_or(KeyError::Given { length })?;
        Ok(Self::new(&key))
    }

    /// The token of a number.
    pub fn token(&self, number: &CardNumber) -> DigitText {
        let payload = self
            .0
            .encrypt(TWEAK, &Decimal::new(number.payload()))
            .expect("11 to 18 decimal digits are in FF1's domain");
        let mut digits = payload.digits();
        let payload = &digits[..payload.count];
        let text = DigitText::new(payload.iter().copied().chain([token_digit(payload)]));
        digits.zeroize();
        text
    }

    /// The number that a token stands for.
    ///
    /// # Errors
    /// [`NotAToken`].
    pub fn number(&self, token: &str) -> Result<DigitText, NotAToken> {
        if let Some(index) = token
            .chars()
            .position(|character| !character.is_ascii_digit())
        {
            return Err(NotAToken::Characters {
                position: index + 1,
            });
        }
        if token.is_empty() {
            return Err(NotAToken::Missing);
        }
        if !(MIN_DIGITS..=MAX_DIGITS).contains(&token.len()) {
            return Err(NotAToken::Length {
                digits: token.len(),
            });
        }
        let mut digits = [0; MAX_DIGITS];
        for (digit, character) in digits.iter_mut().zip(token.bytes()) {
            *digit = character - b'0';
        }
        let payload = &digits[..token.len() - 1];
        if token_digit(payload) != digits[token.len() - 1] {
            return Err(NotAToken::CheckDigit);
        }
        let payload = self
            .0
            .decrypt(TWEAK, &Decimal::new(payload))
            .expect("11 to 18 decimal digits are in FF1's domain");
        let mut digits = payload.digits();
        let payload = &digits[..payload.count];
        let number = DigitText::new(payload.iter().copied().chain([check_digit(payload)]));
        digits.zeroize();
        // A token of another key, or with two typing errors, mostly stands for no card number.
        match CardNumber::parse(number.as_str()) {
            Ok(_) => Ok(number),
            Err(_) => Err(NotAToken::Number),
        }
    }
}

/// AES-256 whose key schedule is shared: FF1 clones its cipher eleven times a number, and each copy of a schedule
/// would have to be wiped.
#[derive(Clone)]
struct Aes(Arc<Aes256Enc>);

impl KeySizeUser for Aes {
    type KeySize = <Aes256Enc as KeySizeUser>::KeySize;
}

impl KeyInit for Aes {
    fn new(key: &Key<Self>) -> Self {
        Self(Arc::new(Aes256Enc::new(key)))
    }
}

impl BlockSizeUser for Aes {
    type BlockSize = <Aes256Enc as BlockSizeUser>::BlockSize;
}

impl BlockCipherEncrypt for Aes {
    fn encrypt_with_backend(&self, f: impl BlockCipherEncClosure<BlockSize = Self::BlockSize>) {
        self.0.encrypt_with_backend(f);
    }
}

/// The last digit of a token with these digits before it: never their check digit.
fn token_digit(payload: &[u8]) -> u8 {
    (check_digit(payload) + 1) % 10
}

fn parse_key(bytes: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    if bytes.len() == 32 {
        key.copy_from_slice(bytes);
        return Some(key);
    }
    let digits = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
    hex::decode_to_slice(digits, key.as_mut_slice()).ok()?;
    Some(key)
}

fn read_up_to(mut reader: impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match reader.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// Up to 18 decimal digits in one word, so that FF1 needs no big integers.
struct Decimal {
    value: u64,
    count: usize,
}

impl Decimal {
    fn new(digits: &[u8]) -> Self {
        let value = digits
            .iter()
            .fold(0, |value, digit| value * 10 + u64::from(*digit));
        Self {
            value,
            count: digits.len(),
        }
    }

    /// The digits, in the first `count` places.
    fn digits(&self) -> [u8; MAX_DIGITS] {
        let mut digits = [0; MAX_DIGITS];
        let mut rest = self.value;
        for digit in digits[..self.count].iter_mut().rev() {
            *digit = (rest % 10) as u8;
            rest /= 10;
        }
        digits
    }
}

impl Drop for Decimal {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

impl NumeralString for Decimal {
    type Ops = Self;

    fn is_valid(&self, radix: u32) -> bool {
        radix == RADIX && self.value < power(self.count)
    }

    fn numeral_count(&self) -> usize {
        self.count
    }

    fn split(&self) -> (Self, Self) {
        let front = self.count / 2;
        let back = self.count - front;
        let half = power(back);
        (
            Self {
                value: self.value / half,
                count: front,
            },
            Self {
                value: self.value % half,
                count: back,
            },
        )
    }

    fn concat(front: Self, back: Self) -> Self {
        let value = front.value * power(back.count) + back.value;
        Self {
            value,
            count: front.count + back.count,
        }
    }
}

impl Operations for Decimal {
    type Bytes = BigEndian;

    fn numeral_count(&self) -> usize {
        self.count
    }

    fn to_be_bytes(&self, _radix: u32, length: usize) -> BigEndian {
        BigEndian {
            bytes: self.value.to_be_bytes(),
            length,
        }
    }

    fn add_mod_exp(self, other: impl Iterator<Item = u8>, _radix: u32, count: usize) -> Self {
        let modulus = power(count);
        Self {
            value: (self.value + reduced(other, modulus)) % modulus,
            count,
        }
    }

    fn sub_mod_exp(self, other: impl Iterator<Item = u8>, _radix: u32, count: usize) -> Self {
        let modulus = power(count);
        let value = (self.value % modulus + modulus - reduced(other, modulus)) % modulus;
        Self { value, count }
    }
}

/// The last `length` bytes of a word; halves have at most 9 digits, which take 4.
struct BigEndian {
    bytes: [u8; 8],
    length: usize,
}

impl AsRef<[u8]> for BigEndian {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.bytes.len() - self.length..]
    }
}

fn reduced(big_endian: impl Iterator<Item = u8>, modulus: u64) -> u64 {
    // FF1 gives 8 bytes for halves of up to 9 digits.
    big_endian.fold(0, |value: u64, byte| value << 8 | u64::from(byte)) % modulus
}

fn power(count: usize) -> u64 {
    10_u64.pow(count as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The halves of every length that occurs take no more bytes than [`reduced`] and [`BigEndian`] have room for.
    #[test]
    fn ff1_agrees_with_the_published_samples() {
        // NIST, FF1 samples 7 and 8 (AES-256, radix 10).
        let key = hex::decode("2b7e151628aed2a6abf7158809cf4f3cef4359d8d580aa4f7f036d6f04fc6a94");
        let ff1 = FF1::<Aes>::new(&key.expect("it is hex"), RADIX).expect("10 is a radix");
        for (tweak, ciphertext) in [("", 6_657_667_009), ("39383736353433323130", 1_001_623_463)] {
            let tweak = hex::decode(tweak).expect("it is hex");
            let plaintext = Decimal {
                value: 123_456_789,
                count: 10,
            };
            let encrypted = ff1
                .encrypt(&tweak, &plaintext)
                .expect("it is in the domain");
            assert_eq!(encrypted.value, ciphertext);
            let decrypted = ff1
                .decrypt(&tweak, &encrypted)
                .expect("it is in the domain");
            assert_eq!(decrypted.value, plaintext.value);
        }
    }

    #[test]
    fn keys_are_32_bytes_or_64_hex_digits_and_nothing_else() {
        let hex = "00".repeat(31) + "Ff";
        let key = |bytes: &[u8]| parse_key(bytes).map(|key| key[31]);
        assert_eq!(key(&[7; 32]), Some(7));
        assert_eq!(key(hex.as_bytes()), Some(0xff));
        assert_eq!(key(format!("{hex}\n").as_bytes()), Some(0xff));
        assert_eq!(key(format!("{hex}\r\n").as_bytes()), Some(0xff));
        for bad in [
            &b""[..],
            &[7; 31],
            &[7; 33],
            &[7; 64],
            &hex.as_bytes()[..62],
        ] {
            assert_eq!(key(bad), None);
        }
        assert_eq!(key(format!("{hex}\n\n").as_bytes()), None);
        assert_eq!(key(format!("{hex} ").as_bytes()), None);
    }

    #[test]
    fn key_errors_name_the_remedy() {
        let error = Tokenizer::from_file(Path::new("/nowhere"))
            .err()
            .expect("there is no such file");
        assert!(error.to_string().contains("anchorhold.toml"));
        let error = Tokenizer::from_file(Path::new("/dev/zero"))
            .err()
            .expect("it is too long");
        assert!(error.to_string().contains("openssl rand -hex 32"));
    }

    #[test]
    fn what_is_no_token_is_refused_with_the_reason() {
        let tokenizer = Tokenizer::new(&[1; 32]);
        let refused = |token: &str| tokenizer.number(token).err();
        assert_eq!(refused(""), Some(NotAToken::Missing));
        assert_eq!(
            refused("1234 5678"),
            Some(NotAToken::Characters { position: 5 })
        );
        assert_eq!(
            refused("12345678901"),
            Some(NotAToken::Length { digits: 11 })
        );
        assert_eq!(
            refused(&"1".repeat(20)),
            Some(NotAToken::Length { digits: 20 })
        );
        assert_eq!(refused("4111111111111111"), Some(NotAToken::CheckDigit));
    }

    #[test]
    fn a_token_under_another_key_does_not_give_the_number() {
        let number = CardNumber::parse("378282246310005").expect("it is a test number");
        let token = Tokenizer::new(&[1; 32]).token(&number);
        let other = Tokenizer::new(&[2; 32]).number(token.as_str());
        assert!(
            other
                .ok()
                .is_none_or(|found| found.as_str() != "378282246310005")
        );
    }

    proptest! {
        #[test]
        fn tokens_are_as_long_never_card_numbers_and_reversible(
            key in any::<[u8; 32]>(),
            first in "4|5[1-5]|37|62|6011|36|9",
            rest in "[0-9]{18}",
            length in MIN_DIGITS..=MAX_DIGITS,
        ) {
            let payload: Vec<u8> =
                (first + &rest).bytes().take(length - 1).map(|digit| digit - b'0').collect();
            let number: String =
                payload.iter().chain([&check_digit(&payload)]).map(ToString::to_string).collect();
            let Ok(card) = CardNumber::parse(&number) else {
                return Ok(()); // This scheme has no numbers of this length.
            };
            let tokenizer = Tokenizer::new(&key);
            let token = tokenizer.token(&card);
            let digits: Vec<u8> = token.as_str().bytes().map(|digit| digit - b'0').collect();
            prop_assert_eq!(digits.len(), length);
            prop_assert_ne!(check_digit(&digits[..length - 1]), digits[length - 1]);
            prop_assert!(CardNumber::parse(token.as_str()).is_err());
            let back = tokenizer.number(token.as_str()).expect("it is a token");
            prop_assert_eq!(back.as_str(), &number);
            // And the other way: this token, and no other, stands for this number.
            let again = tokenizer.token(&CardNumber::parse(back.as_str()).expect("as before"));
            prop_assert_eq!(again.as_str(), token.as_str());
        }
    }
}
