//! Which numbers are card numbers: characters, length for the issuer's range, check digit.
//!
//! The ranges are those that the schemes publish under ISO/IEC 7812 (issuer identification numbers). Must never
//! show a number: [`CardNumber`] has no Debug, and a [`Refusal`] holds counts and positions only.

use zeroize::Zeroize;

/// Fewest digits of a card number that is in use.
pub const MIN_DIGITS: usize = 12;
/// Most digits of a card number (ISO/IEC 7812).
pub const MAX_DIGITS: usize = 19;

/// Whose range a number is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// 34, 37.
    Amex,
    /// 300–305, 3095, 36, 38–39.
    Diners,
    /// 6011, 644–65.
    Discover,
    /// 3528–3589.
    Jcb,
    /// 50, 56–58 and what is left of 6.
    Maestro,
    /// 51–55, 2221–2720.
    Mastercard,
    /// 2200–2204.
    Mir,
    /// 62, 8100–8171.
    UnionPay,
    /// 4.
    Visa,
    /// No range known here.
    Unknown,
}

impl Scheme {
    /// The scheme of a number's first six digits.
    fn of(prefix: u32) -> Self {
        match prefix {
            340_000..=349_999 | 370_000..=379_999 => Self::Amex,
            300_000..=305_999 | 309_500..=309_599 | 360_000..=369_999 | 380_000..=399_999 => {
                Self::Diners
            }
            601_100..=601_199 | 644_000..=659_999 => Self::Discover,
            352_800..=358_999 => Self::Jcb,
            510_000..=559_999 | 222_100..=272_099 => Self::Mastercard,
            220_000..=220_499 => Self::Mir,
            620_000..=629_999 | 810_000..=817_199 => Self::UnionPay,
            400_000..=499_999 => Self::Visa,
            500_000..=509_999 | 560_000..=589_999 | 600_000..=699_999 => Self::Maestro,
            _ => Self::Unknown,
        }
    }

    /// The scheme that a number with these digits (0 to 9 each) belongs to, whatever its length.
    pub fn of_digits(digits: &[u8]) -> Self {
        let six = digits.iter().chain([0; 6].iter()).take(6);
        Self::of(six.fold(0, |prefix, digit| prefix * 10 + u32::from(*digit)))
    }

    /// The lengths that the scheme's numbers have.
    pub fn lengths(self) -> &'static [usize] {
        match self {
            Self::Amex => &[15],
            Self::Diners => &[14, 15, 16, 17, 18, 19],
            Self::Discover | Self::Jcb | Self::Mir | Self::UnionPay => &[16, 17, 18, 19],
            Self::Mastercard => &[16],
            Self::Visa => &[13, 16, 19],
            Self::Maestro | Self::Unknown => &[12, 13, 14, 15, 16, 17, 18, 19],
        }
    }

    /// Its name in the output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amex => "amex",
            Self::Diners => "diners",
            Self::Discover => "discover",
            Self::Jcb => "jcb",
            Self::Maestro => "maestro",
            Self::Mastercard => "mastercard",
            Self::Mir => "mir",
            Self::UnionPay => "unionpay",
            Self::Visa => "visa",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a text is no card number. Displayed for people; holds no digit of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing, or separators only.
    #[error("the record has no card number")]
    Missing,
    /// A character that is neither digit, space nor dash.
    #[error(
        "the card number has something else than digits, spaces and dashes at its character {position}"
    )]
    Characters {
        /// Which character, from 1.
        position: usize,
    },
    /// A length that its issuer's range does not have.
    #[error("{}", length_message(*.digits, *.scheme))]
    Length {
        /// How many digits there are.
        digits: usize,
        /// Whose range it is.
        scheme: Scheme,
    },
    /// The check digit is wrong.
    #[error(
        "the card number's check digit is wrong: a digit was mistyped, or two of them changed places"
    )]
    CheckDigit,
}

impl Refusal {
    /// The error's code in the output.
    pub fn code(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Characters { .. } => "characters",
            Self::Length { .. } => "length",
            Self::CheckDigit => "luhn",
        }
    }
}

fn length_message(digits: usize, scheme: Scheme) -> String {
    let lengths = scheme.lengths();
    let (first, last) = (lengths[0], lengths[lengths.len() - 1]);
    let allowed = match lengths {
        [only] => only.to_string(),
        _ if last - first + 1 == lengths.len() => format!("{first} to {last}"),
        [rest @ .., last] => {
            let rest: Vec<_> = rest.iter().map(ToString::to_string).collect();
            format!("{} or {last}", rest.join(", "))
        }
        [] => String::new(),
    };
    let noun = if digits == 1 { "digit" } else { "digits" };
    match scheme {
        Scheme::Unknown => {
            format!("the card number has {digits} {noun}; card numbers have {allowed}")
        }
        _ => format!(
            "the card number has {digits} {noun}; {} numbers have {allowed}",
            scheme.name()
        ),
    }
}

/// A number that passed every check. Wiped on drop; no Debug.
pub struct CardNumber {
    digits: [u8; MAX_DIGITS],
    length: usize,
    scheme: Scheme,
}

impl CardNumber {
    /// Reads a number that may have spaces and dashes between its digits. The checks come in this order:
    /// anything there at all, characters, length, check digit; the first that fails is the answer.
    ///
    /// # Errors
    /// The [`Refusal`] that applies.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let mut digits = [0; MAX_DIGITS];
        let mut count = 0;
        for (index, character) in text.chars().enumerate() {
            match character {
                '0'..='9' => {
                    if let Some(place) = digits.get_mut(count) {
                        *place = character as u8 - b'0';
                    }
                    count += 1;
                }
                ' ' | '-' => {}
                _ => {
                    return Err(Refusal::Characters {
                        position: index + 1,
                    });
                }
            }
        }
        if count == 0 {
            return Err(Refusal::Missing);
        }
        let scheme = Scheme::of_digits(&digits[..count.min(MAX_DIGITS)]);
        if !scheme.lengths().contains(&count) {
            return Err(Refusal::Length {
                digits: count,
                scheme,
            });
        }
        let number = Self {
            digits,
            length: count,
            scheme,
        };
        if check_digit(number.payload()) != number.digits[count - 1] {
            return Err(Refusal::CheckDigit);
        }
        Ok(number)
    }

    /// All digits, 0 to 9 each.
    pub fn digits(&self) -> &[u8] {
        &self.digits[..self.length]
    }

    /// All digits but the check digit.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.digits[..self.length - 1]
    }

    /// Whose range it is in.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }
}

impl Drop for CardNumber {
    fn drop(&mut self) {
        self.digits.zeroize();
    }
}

/// The check digit (Luhn, ISO/IEC 7812-1 annex B) that belongs after these digits.
pub fn check_digit(payload: &[u8]) -> u8 {
    let sum: u32 = payload
        .iter()
        .rev()
        .enumerate()
        .map(|(index, digit)| {
            let digit = u32::from(*digit);
            match index % 2 {
                0 if digit > 4 => digit * 2 - 9,
                0 => digit * 2,
                _ => digit,
            }
        })
        .sum();
    ((10 - sum % 10) % 10) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme_of(text: &str) -> Result<&'static str, Refusal> {
        CardNumber::parse(text).map(|number| number.scheme().name())
    }

    #[test]
    fn public_test_numbers_have_their_scheme() {
        for (number, scheme) in [
            ("4111111111111111", "visa"),
            ("4222222222222", "visa"),
            ("5555 5555 5555 4444", "mastercard"),
            ("2223-0031-2200-3222", "mastercard"),
            ("3782 822463 10005", "amex"),
            ("30569309025904", "diners"),
            ("3056 930902 5904", "diners"),
            ("6011111111111117", "discover"),
            ("3530111333300000", "jcb"),
            ("6200000000000005", "unionpay"),
            ("6759649826438453", "maestro"),
            ("2200000000000004", "mir"),
        ] {
            assert_eq!(scheme_of(number), Ok(scheme), "{number}");
        }
    }

    #[test]
    fn the_first_failing_check_is_the_answer() {
        assert_eq!(scheme_of(""), Err(Refusal::Missing));
        assert_eq!(scheme_of(" - "), Err(Refusal::Missing));
        assert_eq!(scheme_of("41X"), Err(Refusal::Characters { position: 3 }));
        assert_eq!(
            scheme_of("4111"),
            Err(Refusal::Length {
                digits: 4,
                scheme: Scheme::Visa
            })
        );
        assert_eq!(
            scheme_of(&"4".repeat(40)),
            Err(Refusal::Length {
                digits: 40,
                scheme: Scheme::Visa
            })
        );
        assert_eq!(scheme_of("4111111111111112"), Err(Refusal::CheckDigit));
    }

    #[test]
    fn length_errors_name_the_lengths_that_would_do() {
        let message = |digits, scheme| Refusal::Length { digits, scheme }.to_string();
        assert_eq!(
            message(4, Scheme::Visa),
            "the card number has 4 digits; visa numbers have 13, 16 or 19"
        );
        assert_eq!(
            message(16, Scheme::Amex),
            "the card number has 16 digits; amex numbers have 15"
        );
        assert_eq!(
            message(1, Scheme::Unknown),
            "the card number has 1 digit; card numbers have 12 to 19"
        );
    }
}
