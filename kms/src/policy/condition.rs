//! Conditions: an operator, a condition key, and the values a statement expects.
//!
//! Semantics, from AWS's "IAM JSON policy elements: Condition operators":
//! - Several values are joined by OR; under a negated operator by NOR.
//! - A missing key: positive operators are not met, negated ones are, `…IfExists` is.
//!   `ForAllValues:` over nothing is met, `ForAnyValue:` is not, whatever the operator.
//! - What cannot be read as the operator's type equals nothing: positive operators are
//!   not met, negated ones are.
//! - A key of several values without a quantifier is never met. So that this cannot turn
//!   a Deny off, such statements are refused when the policy is read.

use super::context::Context;
use super::keys::KeyShape;
use super::pattern::{Case, Pattern, PatternError, Syntax};
use base64::Engine as _;
use serde::Serialize;
use std::fmt;
use std::net::IpAddr;
use thiserror::Error;

/// Why a condition cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConditionError {
    /// No such operator.
    #[error("{0:?} is not a condition operator")]
    Operator(String),
    /// `Null` asks for absence itself, so quantifiers and `IfExists` have no sense with it.
    #[error("the operator Null takes neither IfExists nor a quantifier")]
    NullModified,
    /// No such key. A misspelt key would be missing in every request.
    #[error("{0:?} is not a condition key that this service knows")]
    Key(String),
    /// A key that may have several values.
    #[error("{0} may have several values: use ForAllValues: or ForAnyValue: with it")]
    NeedsQuantifier(String),
    /// A key without values.
    #[error("the condition key {0} has no values")]
    NoValues(String),
    /// `ForAllValues` with a key of one value, which is met by requests without the key.
    #[error(
        "OverlyPermissiveCondition: Using the ForAllValues set operator with a single-valued condition key matches requests without the specified {0} or with an unspecified {0}. To fix, remove ForAllValues."
    )]
    OverlyPermissive(&'static str),
    /// A value of the wrong kind.
    #[error("{value:?} is not {wanted}")]
    Value {
        /// As the policy has it.
        value: String,
        /// What the operator takes.
        wanted: &'static str,
    },
    /// A value that is no pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

/// The fingerprint of the root that a request's attestation document chains to.
pub(super) const ANCHOR: &str = "anchorhold:Anchor";

/// One operator, one key, its values.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Condition {
    operator: Operator,
    quantifier: Quantifier,
    if_exists: bool,
    /// As the policy spells it, for people.
    shown_operator: String,
    shown_key: String,
    values: Vec<Operand>,
}

/// What became of one condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConditionTrace {
    /// Whether the condition is met.
    pub met: bool,
    /// The operator, as the policy spells it.
    pub operator: String,
    /// The condition key, as the policy spells it.
    pub key: String,
    /// The policy's values.
    pub expected: Vec<String>,
    /// The request's values, the first of them and of each the beginning; `None` where the key
    /// is missing.
    pub found: Option<Vec<String>>,
}

impl fmt::Display for ConditionTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = match &self.found {
            Some(values) => values.join(", "),
            None => "nothing".to_owned(),
        };
        let expected = self.expected.join(" or ");
        if matches!(self.operator.as_str(), "StringEquals" | "ArnEquals") {
            write!(f, "{} expected {expected}, found {found}", self.key)
        } else {
            write!(
                f,
                "{} expected {} {expected}, found {found}",
                self.key, self.operator
            )
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quantifier {
    One,
    All,
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Equals,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    fn holds(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            Self::Equals => ordering.is_eq(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Text { case: Case, like: bool },
    Number(Order),
    Date(Order),
    Bool,
    Binary,
    Address,
    Arn,
    Null,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Operator {
    test: Test,
    negated: bool,
}

impl Operator {
    fn parse(name: &str) -> Option<Self> {
        let text = |case, like| Test::Text { case, like };
        let (test, negated) = match name.to_ascii_lowercase().as_str() {
            "stringequals" => (text(Case::Kept, false), false),
            "stringnotequals" => (text(Case::Kept, false), true),
            "stringequalsignorecase" => (text(Case::Ignored, false), false),
            "stringnotequalsignorecase" => (text(Case::Ignored, false), true),
            "stringlike" => (text(Case::Kept, true), false),
            "stringnotlike" => (text(Case::Kept, true), true),
            "numericequals" => (Test::Number(Order::Equals), false),
            "numericnotequals" => (Test::Number(Order::Equals), true),
            "numericlessthan" => (Test::Number(Order::Less), false),
            "numericlessthanequals" => (Test::Number(Order::LessOrEqual), false),
            "numericgreaterthan" => (Test::Number(Order::Greater), false),
            "numericgreaterthanequals" => (Test::Number(Order::GreaterOrEqual), false),
            "dateequals" => (Test::Date(Order::Equals), false),
            "datenotequals" => (Test::Date(Order::Equals), true),
            "datelessthan" => (Test::Date(Order::Less), false),
            "datelessthanequals" => (Test::Date(Order::LessOrEqual), false),
            "dategreaterthan" => (Test::Date(Order::Greater), false),
            "dategreaterthanequals" => (Test::Date(Order::GreaterOrEqual), false),
            "bool" => (Test::Bool, false),
            "binaryequals" => (Test::Binary, false),
            "ipaddress" => (Test::Address, false),
            "notipaddress" => (Test::Address, true),
            "arnequals" | "arnlike" => (Test::Arn, false),
            "arnnotequals" | "arnnotlike" => (Test::Arn, true),
            "null" => (Test::Null, false),
            _ => return None,
        };
        Some(Self { test, negated })
    }
}

/// An expected value, read as its operator's type.
#[derive(Debug, Clone, PartialEq)]
struct Operand {
    shown: String,
    wanted: Wanted,
}

#[derive(Debug, Clone, PartialEq)]
enum Wanted {
    Text(Pattern, Case),
    Number(Decimal, Order),
    Date(jiff::Timestamp, Order),
    Bool(bool),
    Binary(Vec<u8>),
    Network(Network),
    Arn(Vec<Pattern>),
    Absent(bool),
}

impl Operand {
    fn parse(value: &str, test: Test, variables: bool) -> Result<Self, ConditionError> {
        let wrong = |wanted| ConditionError::Value {
            value: value.to_owned(),
            wanted,
        };
        let wanted = match test {
            Test::Text { case, like } => {
                let syntax = Syntax {
                    wildcards: like,
                    variables,
                };
                Wanted::Text(Pattern::parse(value, syntax)?, case)
            }
            Test::Number(order) => Wanted::Number(
                Decimal::parse(value).ok_or_else(|| wrong("a number"))?,
                order,
            ),
            Test::Date(order) => Wanted::Date(
                date(value).ok_or_else(|| wrong("an ISO 8601 date or seconds since 1970"))?,
                order,
            ),
            Test::Bool => Wanted::Bool(truth(value).ok_or_else(|| wrong("true or false"))?),
            Test::Null => Wanted::Absent(truth(value).ok_or_else(|| wrong("true or false"))?),
            Test::Binary => Wanted::Binary(binary(value).ok_or_else(|| wrong("base64"))?),
            Test::Address => Wanted::Network(
                Network::parse(value).ok_or_else(|| wrong("an IP address or a CIDR block"))?,
            ),
            Test::Arn => {
                let parts = arn_parts(value).ok_or_else(|| wrong("an ARN of six parts"))?;
                let syntax = Syntax {
                    wildcards: true,
                    variables,
                };
                let patterns: Result<Vec<_>, _> =
                    parts.iter().map(|p| Pattern::parse(p, syntax)).collect();
                Wanted::Arn(patterns?)
            }
        };
        Ok(Self {
            shown: value.to_owned(),
            wanted,
        })
    }

    /// Whether it has a variable that the request has no value for.
    fn lacks_a_value(&self, context: &Context) -> bool {
        match &self.wanted {
            Wanted::Text(pattern, _) => pattern.lacks_a_value(context),
            Wanted::Arn(patterns) => patterns.iter().any(|p| p.lacks_a_value(context)),
            _ => false,
        }
    }

    fn matches(&self, found: &str, context: &Context) -> bool {
        match &self.wanted {
            Wanted::Text(pattern, case) => pattern.matches(found, context, *case),
            Wanted::Number(own, order) => {
                Decimal::parse(found).is_some_and(|n| order.holds(n.cmp(own)))
            }
            Wanted::Date(own, order) => date(found).is_some_and(|d| order.holds(d.cmp(own))),
            Wanted::Bool(own) => truth(found) == Some(*own),
            Wanted::Binary(own) => binary(found).as_ref() == Some(own),
            Wanted::Network(network) => found.parse().is_ok_and(|a| network.contains(a)),
            Wanted::Arn(patterns) => {
                let parts: Vec<&str> = found.splitn(6, ':').collect();
                parts.len() == patterns.len()
                    && patterns
                        .iter()
                        .zip(parts)
                        .all(|(pattern, part)| pattern.matches(part, context, Case::Kept))
            }
            // The key is there.
            Wanted::Absent(absent) => !absent,
        }
    }
}

impl Condition {
    /// Reads `operator: { key: values }`.
    pub(super) fn parse(
        operator: &str,
        key: &str,
        values: &[String],
        variables: bool,
    ) -> Result<Self, ConditionError> {
        let unknown = || ConditionError::Operator(operator.to_owned());
        let (quantifier, name) = match operator.split_once(':') {
            None => (Quantifier::One, operator),
            Some((q, name)) if q.eq_ignore_ascii_case("ForAllValues") => (Quantifier::All, name),
            Some((q, name)) if q.eq_ignore_ascii_case("ForAnyValue") => (Quantifier::Any, name),
            Some(_) => return Err(unknown()),
        };
        let suffix = "IfExists";
        let cut = name.len().checked_sub(suffix.len());
        let (name, if_exists) = match cut.and_then(|at| Some((name.get(..at)?, name.get(at..)?))) {
            Some((name, end)) if end.eq_ignore_ascii_case(suffix) => (name, true),
            _ => (name, false),
        };
        let operator_read = Operator::parse(name).ok_or_else(unknown)?;
        if operator_read.test == Test::Null && (if_exists || quantifier != Quantifier::One) {
            return Err(ConditionError::NullModified);
        }
        match KeyShape::of(key) {
            None => return Err(ConditionError::Key(key.to_owned())),
            Some(KeyShape::Many)
                if quantifier == Quantifier::One && operator_read.test != Test::Null =>
            {
                return Err(ConditionError::NeedsQuantifier(key.to_owned()));
            }
            Some(_) => {}
        }
        if values.is_empty() {
            return Err(ConditionError::NoValues(key.to_owned()));
        }
        let values: Result<Vec<_>, _> = values
            .iter()
            .map(|v| Operand::parse(v, operator_read.test, variables))
            .collect();
        Ok(Self {
            operator: operator_read,
            quantifier,
            if_exists,
            shown_operator: operator.to_owned(),
            shown_key: key.to_owned(),
            values: values?,
        })
    }

    /// `for_allow` says that the condition opens something. Then a variable that the request has no
    /// value for leaves it unmet; under a negated operator it would be met otherwise.
    pub(super) fn judge(&self, context: &Context, for_allow: bool) -> ConditionTrace {
        let found = context.values(&self.shown_key);
        let unresolved = for_allow && self.values.iter().any(|v| v.lacks_a_value(context));
        ConditionTrace {
            met: !unresolved && self.is_met(found, context),
            operator: self.shown_operator.clone(),
            key: self.shown_key.clone(),
            expected: self.values.iter().map(|v| v.shown.clone()).collect(),
            found: found.map(shown),
        }
    }

    /// Key policies: `ForAllValues` with a key that has one value at most is met where the request
    /// lacks the key. AWS KMS refuses it for these two.
    pub(super) fn check_for_key_policy(&self) -> Result<(), ConditionError> {
        let key = self.shown_key.to_ascii_lowercase();
        let what = if key.starts_with("kms:encryptioncontext:") {
            "encryption context"
        } else if key.starts_with("aws:requesttag/") {
            "tag"
        } else {
            return Ok(());
        };
        if self.quantifier == Quantifier::All {
            return Err(ConditionError::OverlyPermissive(what));
        }
        Ok(())
    }

    /// Whether this says, in so many words, that the anchor is this one: a plain, positive
    /// equality with its fingerprint among the values. Patterns, variables, negations,
    /// quantifiers and `IfExists` name nobody.
    pub(super) fn names_anchor(&self, fingerprint: &str) -> bool {
        self.shown_key.eq_ignore_ascii_case(ANCHOR)
            && matches!(self.operator.test, Test::Text { like: false, .. })
            && !self.operator.negated
            && self.quantifier == Quantifier::One
            && !self.if_exists
            && self.values.iter().any(|value| match &value.wanted {
                Wanted::Text(pattern, _) => pattern
                    .literal()
                    .is_some_and(|text| text.eq_ignore_ascii_case(fingerprint)),
                _ => false,
            })
    }

    fn is_met(&self, found: Option<&[String]>, context: &Context) -> bool {
        if self.operator.test == Test::Null {
            return self.values.iter().any(|v| match v.wanted {
                Wanted::Absent(absent) => absent == found.is_none(),
                _ => false,
            });
        }
        let one = |value: &String| {
            self.operator.negated != self.values.iter().any(|v| v.matches(value, context))
        };
        match (found, self.quantifier) {
            (None, _) if self.if_exists => true,
            (None, Quantifier::One) => self.operator.negated,
            (None, Quantifier::All) => true,
            (None, Quantifier::Any) => false,
            (Some([value]), Quantifier::One) => one(value),
            (Some(_), Quantifier::One) => false,
            (Some(values), Quantifier::All) => values.iter().all(one),
            (Some(values), Quantifier::Any) => values.iter().any(one),
        }
    }
}

/// Values as a trace shows them: they come from the request and end in a log, so both their
/// number and their length are bounded.
pub(super) fn shown(values: &[String]) -> Vec<String> {
    const MOST: usize = 32;
    const LONGEST: usize = 256;
    let short = |value: &String| match value.char_indices().nth(LONGEST) {
        None => value.clone(),
        Some((at, _)) => format!("{}…", &value[..at]),
    };
    let mut shown: Vec<String> = values.iter().take(MOST).map(short).collect();
    if values.len() > MOST {
        shown.push(format!("… {} more", values.len() - MOST));
    }
    shown
}

/// A decimal number of at most 18 digits before the point and 9 after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Decimal(i128);

impl Decimal {
    const PLACES: usize = 9;

    fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || whole.len() > 18 || part.len() > Self::PLACES {
            return None;
        }
        if !all_digits(whole) || !all_digits(part) || digits.ends_with('.') {
            return None;
        }
        let scaled: i128 = format!("{whole}{part:0<width$}", width = Self::PLACES)
            .parse()
            .ok()?;
        Some(Self(if negative { -scaled } else { scaled }))
    }
}

/// ISO 8601 with or without a time of day (then midnight UTC), or seconds since 1970.
fn date(text: &str) -> Option<jiff::Timestamp> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return jiff::Timestamp::from_second(text.parse().ok()?).ok();
    }
    if text.len() == 10 {
        return format!("{text}T00:00:00Z").parse().ok();
    }
    text.parse().ok()
}

fn truth(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

fn binary(text: &str) -> Option<Vec<u8>> {
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

/// Six parts; a `:` within a variable does not part them, nor does any after the fifth.
fn arn_parts(text: &str) -> Option<Vec<&str>> {
    let mut parts = Vec::with_capacity(6);
    let mut start = 0;
    let mut inside = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'$' if text[at..].starts_with("${") => inside = true,
            b'}' => inside = false,
            b':' if !inside && parts.len() < 5 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    let first = *parts.first()?;
    (parts.len() == 6 && (first == "arn" || first == "*")).then_some(parts)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            None => (text, None),
            Some((address, bits)) => (address, Some(bits)),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) if !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit()) => {
                bits.parse().ok().filter(|b| *b <= most)?
            }
            Some(_) => return None,
        };
        Some(Self { address, bits })
    }

    fn contains(self, other: IpAddr) -> bool {
        match (self.address, other.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - self.bits).unwrap_or(0);
                own.to_bits() & mask == other.to_bits() & mask
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - self.bits).unwrap_or(0);
                own.to_bits() & mask == other.to_bits() & mask
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(operator: &str, expected: &[&str], found: Option<&str>) -> bool {
        let key = "aws:UserAgent";
        let values: Vec<String> = expected.iter().map(ToString::to_string).collect();
        let condition = Condition::parse(operator, key, &values, true).unwrap();
        let mut context = Context::new();
        if let Some(found) = found {
            context.put(key, found);
        }
        condition.judge(&context, false).met
    }

    fn met_by_many(operator: &str, expected: &[&str], found: &[&str]) -> bool {
        let key = "kms:EncryptionContextKeys";
        let values: Vec<String> = expected.iter().map(ToString::to_string).collect();
        let condition = Condition::parse(operator, key, &values, true).unwrap();
        let mut context = Context::new();
        context.put_all(key, found.iter().map(ToString::to_string));
        condition.judge(&context, false).met
    }

    #[test]
    fn each_operator_compares_as_its_type_does() {
        for (operator, expected, found, outcome) in [
            ("StringEquals", "a", "a", true),
            ("StringEquals", "a", "A", false),
            ("StringEquals", "a*", "ab", false),
            ("StringNotEquals", "a", "A", true),
            ("StringEqualsIgnoreCase", "Straße", "STRASSE", false),
            ("StringEqualsIgnoreCase", "ÄB", "äb", true),
            ("StringNotEqualsIgnoreCase", "ab", "AB", false),
            ("StringLike", "a*", "ab", true),
            ("StringLike", "a*", "Ab", false),
            ("StringNotLike", "a*", "ab", false),
            ("NumericEquals", "5", "5.0", true),
            ("NumericNotEquals", "5", "x", true),
            ("NumericEquals", "5", "x", false),
            ("NumericLessThan", "10", "9", true),
            ("NumericLessThan", "10", "-11", true),
            ("NumericLessThanEquals", "10", "10", true),
            ("NumericGreaterThan", "0.5", "0.25", false),
            ("NumericGreaterThanEquals", "0.5", "0.50", true),
            ("DateEquals", "2025-01-01T00:00:00Z", "1735689600", true),
            (
                "DateEquals",
                "2025-01-01",
                "2025-01-01T01:00:00+01:00",
                true,
            ),
            ("DateNotEquals", "2025-01-01", "2025-01-02", true),
            ("DateLessThan", "2025-01-01", "2024-12-31T23:59:59Z", true),
            (
                "DateLessThanEquals",
                "2025-01-01",
                "2025-01-01T00:00:01Z",
                false,
            ),
            (
                "DateGreaterThan",
                "2025-01-01",
                "2025-01-01T00:00:01Z",
                true,
            ),
            ("DateGreaterThanEquals", "2025-01-01", "nonsense", false),
            ("Bool", "true", "TRUE", true),
            ("Bool", "false", "true", false),
            ("BinaryEquals", "AAE=", "AAE=", true),
            ("BinaryEquals", "AAE=", "AAI=", false),
            ("IpAddress", "10.0.0.0/8", "10.255.0.1", true),
            ("IpAddress", "10.0.0.0/8", "11.0.0.1", false),
            ("IpAddress", "0.0.0.0/0", "11.0.0.1", true),
            ("IpAddress", "127.0.0.1", "::ffff:127.0.0.1", true),
            ("IpAddress", "2001:db8::/32", "2001:db8::1", true),
            ("NotIpAddress", "2001:db8::/32", "2001:db9::1", true),
            (
                "ArnLike",
                "arn:aws:iam::*:user/*",
                "arn:aws:iam::1:user/a/b:c",
                true,
            ),
            (
                "ArnEquals",
                "arn:aws:iam::1:user/a?",
                "arn:aws:iam::1:user/ab",
                true,
            ),
            (
                "ArnNotLike",
                "arn:aws:iam::1:user/*",
                "arn:aws:iam::1:user/a",
                false,
            ),
            ("ArnNotEquals", "arn:aws:iam::1:user/*", "not an arn", true),
            ("stringequalsIFEXISTS", "a", "b", false),
            ("ForAllValues:StringEquals", "a", "a", true),
        ] {
            assert_eq!(
                met(operator, &[expected], Some(found)),
                outcome,
                "{operator} {found}"
            );
        }
    }

    #[test]
    fn several_values_are_joined_by_or_and_negated_by_nor() {
        assert!(met("StringEquals", &["a", "b"], Some("b")));
        assert!(!met("StringNotEquals", &["a", "b"], Some("b")));
        assert!(met("StringNotEquals", &["a", "b"], Some("c")));
    }

    #[test]
    fn a_missing_key_fails_positive_operators_and_meets_negated_ones() {
        for (operator, outcome) in [
            ("StringEquals", false),
            ("StringLike", false),
            ("StringNotEquals", true),
            ("StringNotLike", true),
            ("StringEqualsIfExists", true),
            ("StringNotEqualsIfExists", true),
            ("ForAllValues:StringEquals", true),
            ("ForAllValues:StringNotEquals", true),
            ("ForAnyValue:StringEquals", false),
            ("ForAnyValue:StringNotEquals", false),
            ("ForAnyValue:StringEqualsIfExists", true),
        ] {
            assert_eq!(met(operator, &["a"], None), outcome, "{operator}");
        }
        assert!(met("Null", &["true"], None));
        assert!(!met("Null", &["false"], None));
        assert!(met("Null", &["false"], Some("a")));
        assert!(!met("Null", &["true"], Some("a")));
        assert!(!met("IpAddress", &["0.0.0.0/0"], None));
        assert!(met("NotIpAddress", &["0.0.0.0/0"], None));
    }

    #[test]
    fn quantifiers_ask_each_or_some_value() {
        assert!(met_by_many(
            "ForAllValues:StringEquals",
            &["a", "b"],
            &["a", "b"]
        ));
        assert!(!met_by_many(
            "ForAllValues:StringEquals",
            &["a", "b"],
            &["a", "c"]
        ));
        assert!(met_by_many("ForAnyValue:StringEquals", &["a"], &["a", "c"]));
        assert!(!met_by_many(
            "ForAnyValue:StringEquals",
            &["a"],
            &["b", "c"]
        ));
        assert!(met_by_many(
            "ForAllValues:StringNotEquals",
            &["x"],
            &["a", "b"]
        ));
        assert!(!met_by_many(
            "ForAllValues:StringNotEquals",
            &["a"],
            &["a", "b"]
        ));
        assert!(met_by_many(
            "ForAnyValue:StringNotEquals",
            &["a"],
            &["a", "b"]
        ));
    }

    #[test]
    fn what_could_never_work_is_refused() {
        let parse = |operator: &str, key: &str, value: &str| {
            Condition::parse(operator, key, &[value.to_owned()], true)
        };
        for (operator, key, value) in [
            ("StringEqual", "aws:UserAgent", "a"),
            ("ForSomeValues:StringEquals", "aws:UserAgent", "a"),
            ("NullIfExists", "aws:UserAgent", "true"),
            ("ForAllValues:Null", "aws:UserAgent", "true"),
            ("Null", "aws:UserAgent", "yes"),
            ("Bool", "aws:UserAgent", "1"),
            ("NumericEquals", "aws:UserAgent", "5."),
            ("DateEquals", "aws:UserAgent", "tomorrow"),
            ("IpAddress", "aws:SourceIp", "10.0.0.0/33"),
            ("IpAddress", "aws:SourceIp", "10.0.0"),
            ("BinaryEquals", "aws:UserAgent", "?"),
            ("ArnLike", "aws:PrincipalArn", "*"),
            ("ArnEquals", "aws:PrincipalArn", "arn:aws:*:user/*"),
            ("StringEquals", "kms:RecipientAttestation:ImageSha386", "a"),
            ("StringEquals", "kms:RecipientAttestation:PCR32", "a"),
            ("StringEquals", "kms:RecipientAttestation:PCR00", "a"),
            ("StringEquals", "kms:EncryptionContext:", "a"),
            ("StringEquals", "s3:prefix", "a"),
            ("StringEquals", "kms:EncryptionContextKeys", "a"),
            ("StringEquals", "aws:UserAgent", "${aws:username"),
        ] {
            assert!(
                parse(operator, key, value).is_err(),
                "{operator} {key} {value}"
            );
        }
        assert!(Condition::parse("StringEquals", "aws:UserAgent", &[], true).is_err());
        assert!(parse("Null", "kms:EncryptionContextKeys", "true").is_ok());
        assert!(parse("StringEquals", "KMS:recipientattestation:pcr31", "a").is_ok());
    }

    #[test]
    fn a_key_of_several_values_without_quantifier_is_never_met() {
        let condition =
            Condition::parse("StringEquals", "aws:UserAgent", &["a".to_owned()], true).unwrap();
        let mut context = Context::new();
        context.put_all("aws:UserAgent", ["a".to_owned(), "a".to_owned()]);
        assert!(!condition.judge(&context, false).met);
    }

    #[test]
    fn a_variable_without_a_value_never_opens_anything() {
        let condition = Condition::parse(
            "StringNotEquals",
            "aws:UserAgent",
            &["${aws:username}".to_owned()],
            true,
        )
        .unwrap();
        let mut context = Context::new();
        context.put("aws:UserAgent", "a");
        assert!(!condition.judge(&context, true).met);
        assert!(condition.judge(&context, false).met);
        context.put("aws:username", "b");
        assert!(condition.judge(&context, true).met);
    }

    #[test]
    fn only_a_plain_positive_equality_names_an_anchor() {
        let names = |operator: &str, key: &str, value: &str| {
            Condition::parse(operator, key, &["x".to_owned(), value.to_owned()], true)
                .unwrap()
                .names_anchor("ab12")
        };
        assert!(names("StringEquals", "anchorhold:Anchor", "ab12"));
        assert!(names("StringEqualsIgnoreCase", "ANCHORHOLD:anchor", "AB12"));
        for (operator, key, value) in [
            ("StringEquals", "anchorhold:Anchor", "ab13"),
            ("StringEquals", "anchorhold:Anchor", "ab1"),
            ("StringEquals", "anchorhold:Anchor", ""),
            ("StringEquals", "anchorhold:Anchor", "${anchorhold:Anchor}"),
            (
                "StringEquals",
                "anchorhold:Anchor",
                "${aws:username, 'ab12'}",
            ),
            ("StringLike", "anchorhold:Anchor", "*"),
            ("StringLike", "anchorhold:Anchor", "ab12"),
            ("StringNotEquals", "anchorhold:Anchor", "ab12"),
            ("StringEqualsIfExists", "anchorhold:Anchor", "ab12"),
            ("ForAllValues:StringEquals", "anchorhold:Anchor", "ab12"),
            ("ForAnyValue:StringEquals", "anchorhold:Anchor", "ab12"),
            ("StringEquals", "aws:UserAgent", "ab12"),
        ] {
            assert!(!names(operator, key, value), "{operator} {key} {value}");
        }
    }
}
