//! Addresses that no allowlist can open.
//!
//! A name is judged twice: its text against the allowlists, and every address that it resolves to here, since whoever answers
//! for the name chooses the address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
