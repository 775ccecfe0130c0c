//! Where an enclave may be led: a [`Target`] is one place to connect to, a [`Pattern`] permits targets, an [`Allowlist`] is
//! a set of patterns, empty by default.
//!
//! Texts have one reading here: what a resolver, a browser or a person could take for something else is refused. A name is
//! never matched by what it resolves to, else whoever answers for names would decide, and asking for names would carry
//! bytes out.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest host name that DNS can carry (RFC 1035, section 2.3.4).
const LONGEST_HOST: usize = 253;

/// A host, as a name or an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A DNS name in lower case, without a final dot.
    Name(String),
    /// An address; IPv4 written inside IPv6 (`::ffff:10.0.0.1`) counts as the IPv4 address.
    Address(IpAddr),
}

/// A place to connect to: host and port.
///
/// Written `name:443`, `10.0.0.1:443` or `[2001:db8::1]:443`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Target {
    host: Host,
    port: u16,
}

/// Why a text is no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a target: {problem}; write host:port, such as kms.eu-west-1.amazonaws.com:443"
)]
pub struct TargetError {
    /// The text, shortened to what a message can bear.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Target {
    /// The host, in the one spelling in which it is compared.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Shortened to what a message can bear.
fn shortened(text: &str) -> String {
    text.chars().take(LONGEST_HOST + 16).collect()
}

/// What stands before the last colon, and the port behind it: digits alone, and no zero in front, so that there is one
/// spelling.
fn split_port(text: &str) -> Result<(&str, u16), &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
    let plain = port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
    let port = plain
        .then(|| port.parse().ok())
        .flatten()
        .ok_or("the port is not a number from 1 to 65535")?;
    Ok((host, port))
}

/// The address between brackets.
fn bracketed(host: &str) -> Option<Result<Ipv6Addr, &'static str>> {
    let inner = host.strip_prefix('[')?;
    Some(
        inner
            .strip_suffix(']')
            .and_then(|inner| inner.parse().ok())
            .ok_or("what stands in brackets is not an IPv6 address"),
    )
}

/// A name in lower case without a final dot, if no resolver takes it for something else.
fn name(text: &str) -> Result<String, &'static str> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() || name.len() > LONGEST_HOST {
        return Err("a host name has 1 to 253 characters");
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err("each part of a host name has 1 to 63 characters");
        }
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !label.bytes().all(known) {
            return Err("a host name has only letters, digits, hyphens and dots");
        }
    }
    // The system's resolver also takes 2130706433, 0x7f.1 and 0177.0.0.1 for addresses. Such spellings would
    // let one address go by many names.
    let last = name.rsplit('.').next().unwrap_or(name);
    let hexadecimal = last
        .strip_prefix("0x")
        .or_else(|| last.strip_prefix("0X"))
        .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if hexadecimal || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("an IPv4 address is written as four decimal numbers");
    }
    Ok(name.to_ascii_lowercase())
}

fn host(text: &str) -> Result<Host, &'static str> {
    if let Some(address) = bracketed(text) {
        return Ok(Host::Address(IpAddr::V6(address?).to_canonical()));
    }
    if text.contains(':') {
        return Err("an IPv6 address needs brackets");
    }
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Address(address.into()));
    }
    name(text).map(Host::Name)
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        split_port(text)
            .and_then(|(before, port)| {
                Ok(Target {
                    host: host(before)?,
                    port,
                })
            })
            .map_err(|problem| TargetError {
                text: shortened(text),
                problem,
            })
    }
}

impl TryFrom<String> for Target {
    type Error = TargetError;

    fn try_from(text: String) -> Result<Self, TargetError> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> String {
        target.to_string()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::Address(IpAddr::V4(address)) => write!(f, "{address}:{}", self.port),
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
        }
    }
}

/// A network of addresses, written `10.0.0.0/8` or `2001:db8::/32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    length: u8,
}

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a network: {problem}; write address/length, such as 10.0.0.0/8")]
pub struct NetworkError {
    /// The text, shortened to what a message can bear.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// The first `length` bits of an address.
fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let keep = u32::MAX
                .checked_shl(32 - u32::from(length))
                .unwrap_or_default();
            Ipv4Addr::from_bits(address.to_bits() & keep).into()
        }
        IpAddr::V6(address) => {
            let keep = u128::MAX
                .checked_shl(128 - u32::from(length))
                .unwrap_or_default();
            Ipv6Addr::from_bits(address.to_bits() & keep).into()
        }
    }
}

impl Network {
    /// Whether an address is in it. IPv4 written inside IPv6 (`::ffff:10.0.0.1`) counts as the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.length) == self.address
    }

    fn read(address: IpAddr, length: &str) -> Result<Self, &'static str> {
        const PROBLEM: &str = "the length is not a number of the address's bits";
        let plain = length == "0" || !length.starts_with('0');
        let plain = plain && length.bytes().all(|byte| byte.is_ascii_digit());
        let length: u8 = plain
            .then(|| length.parse().ok())
            .flatten()
            .ok_or(PROBLEM)?;
        if length > if address.is_ipv4() { 32 } else { 128 } {
            return Err(PROBLEM);
        }
        if address != address.to_canonical() {
            return Err("an IPv4 network is written as one");
        }
        if masked(address, length) != address {
            return Err(
                "the address has bits beyond the length: write the first address of the network",
            );
        }
        Ok(Self { address, length })
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        text.split_once('/')
            .ok_or("the length is missing")
            .and_then(|(address, length)| {
                let address = address
                    .parse()
                    .map_err(|_| "what stands before the / is no address")?;
                Self::read(address, length)
            })
            .map_err(|problem| NetworkError {
                text: shortened(text),
                problem,
            })
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> String {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// What an entry of an allowlist permits.
///
/// - `host:port`: exactly that.
/// - `*.example.com:443`: each name with exactly one label more, as in certificates (RFC 9525, section 6.3):
///   `a.example.com`, and neither `example.com` nor `a.b.example.com`. At least two labels stand behind the star.
/// - `10.0.0.0/8:443`, `[2001:db8::]/32:443`: each target that is written as an address in that network. A name is not, whatever
///   it resolves to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Pattern {
    /// One target.
    Exact(Target),
    /// Names right below a domain.
    Below {
        /// The domain, in lower case.
        domain: String,
        /// The port.
        port: u16,
    },
    /// Addresses of a network.
    Within {
        /// The network.
        network: Network,
        /// The port.
        port: u16,
    },
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} permits no target: {problem}; write host:port, *.example.com:443 or 10.0.0.0/8:443"
)]
pub struct PatternError {
    /// The text, shortened to what a message can bear.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Pattern {
    /// Whether it permits this target.
    pub fn permits(&self, target: &Target) -> bool {
        match (self, &target.host) {
            (Pattern::Exact(exact), _) => exact == target,
            (Pattern::Below { domain, port }, Host::Name(name)) => {
                *port == target.port
                    && name
                        .split_once('.')
                        .is_some_and(|(_, parent)| parent == domain)
            }
            (Pattern::Within { network, port }, Host::Address(address)) => {
                *port == target.port && network.contains(*address)
            }
            (Pattern::Below { .. }, Host::Address(_)) | (Pattern::Within { .. }, Host::Name(_)) => {
                false
            }
        }
    }

    fn read(text: &str) -> Result<Self, &'static str> {
        let (before, port) = split_port(text)?;
        if let Some(domain) = before.strip_prefix("*.") {
            let domain = name(domain)?;
            if !domain.contains('.') {
                return Err("at least two labels stand behind the star");
            }
            return Ok(Pattern::Below { domain, port });
        }
        if let Some((address, length)) = before.split_once('/') {
            let address = match bracketed(address) {
                Some(address) => address?.into(),
                None => address
                    .parse::<Ipv4Addr>()
                    .map_err(|_| "what stands before the / is neither an IPv4 address nor an IPv6 address in brackets")?
                    .into(),
            };
            let network = Network::read(address, length)?;
            return Ok(Pattern::Within { network, port });
        }
        Ok(Pattern::Exact(Target {
            host: host(before)?,
            port,
        }))
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::read(text).map_err(|problem| PatternError {
            text: shortened(text),
            problem,
        })
    }
}

impl From<Target> for Pattern {
    fn from(target: Target) -> Self {
        Pattern::Exact(target)
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.to_string()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Exact(target) => target.fmt(f),
            Pattern::Below { domain, port } => write!(f, "*.{domain}:{port}"),
            Pattern::Within { network, port } if network.address.is_ipv6() => {
                write!(f, "[{}]/{}:{port}", network.address, network.length)
            }
            Pattern::Within { network, port } => write!(f, "{network}:{port}"),
        }
    }
}

/// The targets that may be reached. Its default permits nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Allowlist(BTreeSet<Pattern>);

impl Allowlist {
    /// An allowlist that permits nothing.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Reads [`Pattern`]s.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, PatternError> {
        entries.into_iter().map(str::parse).collect()
    }

    /// Adds a pattern, or a target.
    pub fn allow(&mut self, pattern: impl Into<Pattern>) {
        self.0.insert(pattern.into());
    }

    /// Whether an entry permits this target. Where a name leads is another question.
    pub fn permits(&self, target: &Target) -> bool {
        self.0.iter().any(|pattern| pattern.permits(target))
    }

    /// The entries, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &Pattern> {
        self.0.iter()
    }

    /// Whether it permits nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Pattern> for Allowlist {
    fn from_iter<I: IntoIterator<Item = Pattern>>(patterns: I) -> Self {
        Self(patterns.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_permits_nothing() {
        let target = "kms.eu-west-1.amazonaws.com:443".parse().unwrap();
        assert!(!Allowlist::nothing().permits(&target));
    }

    fn check(entries: &[&str], cases: &[(&str, bool)]) {
        let allowlist = Allowlist::parse(entries.iter().copied()).unwrap();
        for (text, permitted) in cases {
            assert_eq!(
                allowlist.permits(&text.parse().unwrap()),
                *permitted,
                "{text} by {entries:?}"
            );
        }
    }

    #[test]
    fn an_exact_entry_permits_exactly_its_host_and_port() {
        check(
            &["kms.example.com:443", "10.1.2.3:8443"],
            &[
                ("kms.example.com:443", true),
                ("KMS.Example.Com.:443", true),
                ("kms.example.com:444", false),
                ("akms.example.com:443", false),
                ("a.kms.example.com:443", false),
                ("kms.example.com.evil.net:443", false),
                ("example.com:443", false),
                ("10.1.2.3:8443", true),
                ("[::ffff:10.1.2.3]:8443", true),
                ("10.1.2.3:443", false),
                ("10.1.2.30:8443", false),
            ],
        );
    }

    #[test]
    fn a_star_stands_for_exactly_one_label_as_in_certificates() {
        check(
            &["*.Example.com:443"],
            &[
                ("a.example.com:443", true),
                ("A.EXAMPLE.COM.:443", true),
                ("example.com:443", false),
                ("a.b.example.com:443", false),
                ("a.example.com:444", false),
                ("aexample.com:443", false),
                ("a.example.com.evil.net:443", false),
                ("a.notexample.com:443", false),
            ],
        );
    }

    #[test]
    fn a_network_permits_addresses_in_it_and_no_names() {
        check(
            &["10.0.0.0/8:443", "[2001:db8::]/32:8443", "192.0.2.7/32:1"],
            &[
                ("10.0.0.0:443", true),
                ("10.255.255.255:443", true),
                ("[::ffff:10.9.9.9]:443", true),
                ("11.0.0.0:443", false),
                ("10.0.0.1:444", false),
                ("[2001:db8:ffff::1]:8443", true),
                ("[2001:db9::1]:8443", false),
                ("192.0.2.7:1", true),
                ("192.0.2.6:1", false),
                ("ten.example.com:443", false),
            ],
        );
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.1.2.3".parse().unwrap()));
        assert!(!all.contains("::1".parse().unwrap()));
        let all: Network = "::/0".parse().unwrap();
        assert!(all.contains("::1".parse().unwrap()));
        assert!(!all.contains("::ffff:1.2.3.4".parse().unwrap()));
    }

    #[test]
    fn a_text_with_more_than_one_reading_is_no_target_and_no_pattern() {
        let long_label = format!("{}.example:1", "a".repeat(64));
        let long_name = format!("{}:1", "a.".repeat(200));
        for text in [
            "",
            ":443",
            "host",
            "host:",
            "host:0",
            "host:0443",
            "host:65536",
            "host:+443",
            "host:443 ",
            " host:443",
            "user@host:443",
            "a..b:443",
            "2130706433:80",
            "0x7f000001:80",
            "127.1:80",
            "0177.0.0.1:80",
            "1.2.3.4.5:80",
            "::1:80",
            "[::1:80",
            "[fe80::1%eth0]:80",
            "[]:80",
            "h\u{f6}st:80",
            "host\n:80",
            &long_label,
            &long_name,
        ] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
            assert!(text.parse::<Pattern>().is_err(), "{text:?}");
        }
        for text in [
            "*:443",
            "*.com:443",
            "*.example.com",
            "*.*.example.com:443",
            "a*.example.com:443",
            "**.example.com:443",
            "a.*.com:443",
            "*.10.0.0.1:443",
            "*..com:443",
            "10.0.0.0/8",
            "10.0.0.1/8:443",
            "10.0.0.0/33:443",
            "10.0.0.0/08:443",
            "10.0.0.0/+8:443",
            "10.0.0.0/:443",
            "10.0.0/8:443",
            "2001:db8::/32:443",
            "[2001:db8::]/129:443",
            "[2001:db8::1]/32:443",
            "[::ffff:10.0.0.0]/104:443",
            "example.com/8:443",
        ] {
            assert!(text.parse::<Pattern>().is_err(), "{text:?}");
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_read_reads_back_as_it_is_written() {
        for text in ["a.example:1", "10.0.0.1:65535", "[2001:db8::1]:443"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
        for text in ["*.a.example:1", "10.0.0.0/8:1", "[2001:db8::]/32:443"] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
        for text in ["10.0.0.0/8", "0.0.0.0/0", "2001:db8::/32", "::1/128"] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_pattern_with_one_spelling_or_an_error(text in "[*\\[]?[a-zA-Z0-9.:/*\\]-]{0,40}") {
            if let Ok(pattern) = text.parse::<Pattern>() {
                prop_assert_eq!(pattern.to_string().parse::<Pattern>(), Ok(pattern));
            }
        }

        #[test]
        fn every_target_is_a_pattern_that_permits_it_alone(text in "[a-z0-9.:\\[\\]-]{1,30}:[0-9]{1,5}") {
            if let Ok(target) = text.parse::<Target>() {
                let pattern: Pattern = text.parse().unwrap();
                prop_assert!(pattern.permits(&target));
                prop_assert_eq!(pattern, Pattern::Exact(target));
            }
        }

        #[test]
        fn a_network_holds_what_shares_its_first_bits(bits: u32, other: u32, length in 0u8..=32) {
            let address = masked(Ipv4Addr::from_bits(bits).into(), length);
            let network: Network = format!("{address}/{length}").parse().unwrap();
            let same = length == 0 || (bits ^ other) >> (32 - u32::from(length)) == 0;
            prop_assert_eq!(network.contains(Ipv4Addr::from_bits(other).into()), same);
        }
    }
}
