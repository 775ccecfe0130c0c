//! Which targets the window may reach: exact `host:port` entries, nothing by default, and addresses that no entry can open.
//!
//! A name is judged twice: its text against the entries, and every address it resolves to against [`forbidden`], since
//! whoever answers for the name chooses the address. Never match a prefix, a suffix or a pattern here.

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

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let error = |problem| TargetError {
            text: text.chars().take(LONGEST_HOST + 16).collect(),
            problem,
        };
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| error("the port is missing"))?;
        if port.is_empty() || port.len() > 5 || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(error("the port is not a number from 1 to 65535"));
        }
        let port: u16 = port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| error("the port is not a number from 1 to 65535"))?;

        if let Some(inner) = host.strip_prefix('[') {
            let address: Ipv6Addr = inner
                .strip_suffix(']')
                .and_then(|inner| inner.parse().ok())
                .ok_or_else(|| error("what stands in brackets is not an IPv6 address"))?;
            return Ok(Target {
                host: Host::Address(IpAddr::V6(address).to_canonical()),
                port,
            });
        }
        if host.contains(':') {
            return Err(error("an IPv6 address needs brackets"));
        }
        if let Ok(address) = host.parse::<Ipv4Addr>() {
            return Ok(Target {
                host: Host::Address(address.into()),
                port,
            });
        }
        let name = host.strip_suffix('.').unwrap_or(host);
        if name.is_empty() || name.len() > LONGEST_HOST {
            return Err(error("a host name has 1 to 253 characters"));
        }
        for label in name.split('.') {
            if label.is_empty() || label.len() > 63 {
                return Err(error("each part of a host name has 1 to 63 characters"));
            }
            let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            if !label.bytes().all(known) {
                return Err(error(
                    "a host name has only letters, digits, hyphens and dots",
                ));
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
            return Err(error("an IPv4 address is written as four decimal numbers"));
        }
        Ok(Target {
            host: Host::Name(name.to_ascii_lowercase()),
            port,
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

/// The targets that the window may reach. Its default permits nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Allowlist(BTreeSet<Target>);

impl Allowlist {
    /// An allowlist that permits nothing.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Reads entries of the form `host:port`.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, TargetError> {
        entries.into_iter().map(str::parse).collect()
    }

    /// Adds one target.
    pub fn allow(&mut self, target: Target) {
        self.0.insert(target);
    }

    /// Whether an entry names exactly this host and port. The addresses behind a name are judged by [`forbidden`].
    pub fn permits(&self, target: &Target) -> bool {
        self.0.contains(target)
    }

    /// The entries, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &Target> {
        self.0.iter()
    }
}

impl FromIterator<Target> for Allowlist {
    fn from_iter<I: IntoIterator<Item = Target>>(targets: I) -> Self {
        Self(targets.into_iter().collect())
    }
}

/// Why an address is refused whatever the allowlist says, or `None` where the allowlist decides.
///
/// The instance metadata service and its relatives hand the host's own credentials to whoever can connect, so an
/// enclave that gets there through a name of its choosing owns the host.
pub fn forbidden(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        IpAddr::V4(address) => forbidden_v4(address),
        IpAddr::V6(address) => forbidden_v6(address),
    }
}

fn forbidden_v4(address: Ipv4Addr) -> Option<&'static str> {
    /// Wire server of one large cloud, and metadata address of another; neither is link-local.
    const OTHER_CLOUDS: [Ipv4Addr; 2] = [
        Ipv4Addr::new(168, 63, 129, 16),
        Ipv4Addr::new(100, 100, 100, 200),
    ];
    if address.is_link_local() {
        Some("link-local addresses (169.254.0.0/16) hold the instance metadata service")
    } else if OTHER_CLOUDS.contains(&address) {
        Some("a cloud's metadata address")
    } else if address.octets()[0] == 0 {
        Some("0.0.0.0/8 means this host itself")
    } else if address.is_multicast() || address.is_broadcast() {
        Some("multicast and broadcast addresses are no targets")
    } else {
        None
    }
}

fn forbidden_v6(address: Ipv6Addr) -> Option<&'static str> {
    let segments = address.segments();
    if address.is_unicast_link_local() {
        return Some("link-local addresses (fe80::/10) hold services of this host's own network");
    }
    if segments[..2] == [0xfd00, 0x0ec2] {
        return Some("fd00:ec2::/32 holds the instance metadata service");
    }
    if address.is_unspecified() {
        return Some("the unspecified address means this host itself");
    }
    if address.is_multicast() {
        return Some("multicast and broadcast addresses are no targets");
    }
    // IPv4 in disguise: IPv4-compatible (RFC 4291, 2.5.5.1), NAT64 (RFC 6052) and 6to4 (RFC 3056).
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 1] => None,
        [0, 0, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            forbidden_v4(embedded(high, low))
        }
        [0x2002, high, low, ..] => forbidden_v4(embedded(high, low)),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    #[test]
    fn the_default_permits_nothing() {
        let target = "kms.eu-west-1.amazonaws.com:443".parse().unwrap();
        assert!(!Allowlist::nothing().permits(&target));
    }

    #[test]
    fn only_the_exact_host_and_port_are_permitted() {
        let allowlist = Allowlist::parse(["kms.example.com:443", "10.1.2.3:8443"]).unwrap();
        for (text, permitted) in [
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
        ] {
            assert_eq!(
                allowlist.permits(&text.parse().unwrap()),
                permitted,
                "{text}"
            );
        }
    }

    #[test]
    fn a_text_with_more_than_one_reading_is_no_target() {
        for text in [
            "",
            ":443",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "host:+443",
            "host:443 ",
            " host:443",
            "user@host:443",
            "a..b:443",
            "*.example.com:443",
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
        ] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
        assert!(
            format!("{}.example:1", "a".repeat(64))
                .parse::<Target>()
                .is_err()
        );
        assert!(format!("{}:1", "a.".repeat(200)).parse::<Target>().is_err());
    }

    #[test]
    fn a_target_reads_back_as_it_is_written() {
        for text in ["a.example:1", "10.0.0.1:65535", "[2001:db8::1]:443"] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.to_string(), text);
        }
    }

    #[test]
    fn metadata_and_link_local_addresses_are_forbidden_in_every_disguise() {
        for text in [
            "169.254.169.254",
            "169.254.170.2",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "2002:a9fe:a9fe::1",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
            "168.63.129.16",
            "100.100.100.200",
        ] {
            assert!(forbidden(text.parse().unwrap()).is_some(), "{text}");
        }
        for text in [
            "127.0.0.1",
            "::1",
            "10.0.0.1",
            "169.253.1.1",
            "2001:db8::1",
            "fd00:ec3::254",
        ] {
            assert!(forbidden(text.parse().unwrap()).is_none(), "{text}");
        }
    }
}
