//! The PROXY protocol, versions 1 and 2 (HAProxy's `proxy-protocol.txt`): by what header a load balancer says whose connection
//! it passes on, and with what header the enclave is told.
//!
//! Pure: bytes in, what they say out. Whether to believe it is not decided here.

use std::net::SocketAddr;

use ppp::{PartialResult as _, v1, v2};
use serde::{Deserialize, Serialize};

/// The longest header of version 1.
const LONGEST_V1: usize = 107;

/// The longest header of version 2 that is read: addresses, and what load balancers add (TLVs).
const LONGEST_V2: usize = 4096;

/// What every header of version 2 begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A form of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyVersion {
    /// Text.
    V1,
    /// Bytes.
    V2,
}

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// The client's address; none where the load balancer speaks for itself, or does not say.
    pub client: Option<SocketAddr>,
    /// Bytes of the header.
    pub length: usize,
}

/// What was read so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// A header, and nothing behind it was looked at.
    Whole(Passed),
    /// It may become a header.
    More,
    /// It never will.
    Wrong,
}

/// Looks at the first bytes of a connection. For a prefix of a header the answer is never [`Read::Wrong`].
pub fn read(bytes: &[u8]) -> Read {
    let begins_as = |known: &[u8]| {
        let length = known.len().min(bytes.len());
        bytes[..length] == known[..length]
    };
    if begins_as(SIGNATURE) {
        return read_v2(bytes.get(..LONGEST_V2).unwrap_or(bytes));
    }
    if !begins_as(b"PROXY ") {
        return Read::Wrong;
    }
    let line = bytes.get(..LONGEST_V1).unwrap_or(bytes);
    match line.iter().position(|byte| *byte == b'\n') {
        // The library does not take every part of a line for one that may go on.
        None if line.len() < LONGEST_V1 => Read::More,
        None => Read::Wrong,
        Some(end) => read_v1(&line[..=end]),
    }
}

fn read_v1(line: &[u8]) -> Read {
    let Ok(header) = v1::Header::try_from(line) else {
        return Read::Wrong;
    };
    let client = match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(of) => Some((of.source_address, of.source_port).into()),
        v1::Addresses::Tcp6(of) => Some((of.source_address, of.source_port).into()),
    };
    whole(client, line.len(), LONGEST_V1)
}

fn read_v2(bytes: &[u8]) -> Read {
    let header = match v2::Header::try_from(bytes) {
        Ok(header) if header.protocol != v2::Protocol::Datagram => header,
        Err(error) if error.is_incomplete() && bytes.len() < LONGEST_V2 => return Read::More,
        _ => return Read::Wrong,
    };
    let client = match (header.command, header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(of)) => {
            Some((of.source_address, of.source_port).into())
        }
        (v2::Command::Proxy, v2::Addresses::IPv6(of)) => {
            Some((of.source_address, of.source_port).into())
        }
        _ => None,
    };
    whole(client, header.header.len(), LONGEST_V2)
}

fn whole(client: Option<SocketAddr>, length: usize, most: usize) -> Read {
    if length > most {
        return Read::Wrong;
    }
    Read::Whole(Passed { client, length })
}

/// The header that says that `client` connected to `local`. Where one of them is unknown, or they are of different kinds, it
/// says that nothing is known.
pub fn written(
    version: ProxyVersion,
    client: Option<SocketAddr>,
    local: Option<SocketAddr>,
) -> Vec<u8> {
    let known = client.zip(local).and_then(|(client, local)| {
        let kind = |of: SocketAddr| SocketAddr::new(of.ip().to_canonical(), of.port());
        let (client, local) = (kind(client), kind(local));
        (client.is_ipv4() == local.is_ipv4()).then_some((client, local))
    });
    match (version, known) {
        (ProxyVersion::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (ProxyVersion::V1, Some((client, local))) => format!(
            "PROXY TCP{} {} {} {} {}\r\n",
            if client.is_ipv4() { 4 } else { 6 },
            client.ip(),
            local.ip(),
            client.port(),
            local.port()
        )
        .into_bytes(),
        (ProxyVersion::V2, known) => {
            let mut header = SIGNATURE.to_vec();
            let (command, family) = match &known {
                None => (0x20, 0x00),
                Some((client, _)) if client.is_ipv4() => (0x21, 0x11),
                Some(_) => (0x21, 0x21),
            };
            let mut addresses = Vec::new();
            if let Some((client, local)) = known {
                for address in [client, local] {
                    match address.ip() {
                        std::net::IpAddr::V4(ip) => addresses.extend(ip.octets()),
                        std::net::IpAddr::V6(ip) => addresses.extend(ip.octets()),
                    }
                }
                addresses.extend(client.port().to_be_bytes());
                addresses.extend(local.port().to_be_bytes());
            }
            header.extend([command, family]);
            header.extend((addresses.len() as u16).to_be_bytes());
            header.extend(addresses);
            header
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passed(client: Option<&str>, length: usize) -> Read {
        Read::Whole(Passed {
            client: client.map(|text| text.parse().unwrap()),
            length,
        })
    }

    #[test]
    fn headers_of_both_versions_name_the_client_and_their_length() {
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\nGET / HTTP/1.1\r\n";
        assert_eq!(read(line), passed(Some("192.0.2.1:56324"), 45));
        let line = b"PROXY TCP6 2001:db8::1 2001:db8::2 4124 443\r\nrest";
        assert_eq!(read(line), passed(Some("[2001:db8::1]:4124"), 45));
        assert_eq!(read(b"PROXY UNKNOWN\r\nrest"), passed(None, 15));
        let mut header = SIGNATURE.to_vec();
        header.extend([
            0x21, 0x11, 0, 12, 192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb,
        ]);
        assert_eq!(read(&header), passed(Some("192.0.2.1:56324"), 28));
        // With what load balancers add behind the addresses.
        header[15] = 12 + 4;
        header.extend([0xea, 0, 1, 7]);
        header.extend(b"the flow");
        assert_eq!(read(&header), passed(Some("192.0.2.1:56324"), 32));
        // A balancer's own connection, to look whether we live.
        let mut local = SIGNATURE.to_vec();
        local.extend([0x20, 0, 0, 0]);
        assert_eq!(read(&local), passed(None, 16));
    }

    #[test]
    fn what_is_no_header_is_wrong_at_once() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x03\x01",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n",
            b"PROXY TCP4 192.0.2.256 198.51.100.1 56324 443\r\n",
            b"PROXY TCP4 2001:db8::1 2001:db8::2 4124 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 99999 443\r\n",
            b"PROXY UDP4 192.0.2.1 198.51.100.1 1 443\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c............",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04....",
        ] {
            assert_eq!(read(bytes), Read::Wrong, "{}", bytes.escape_ascii());
        }
        // An end that never comes.
        assert_eq!(
            read(&[b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat()),
            Read::Wrong
        );
        let mut endless = SIGNATURE.to_vec();
        endless.extend([0x21, 0x11, 0xff, 0xff]);
        assert_eq!(read(&endless), Read::More);
        endless.resize(LONGEST_V2, 0);
        assert_eq!(read(&endless), Read::Wrong);
    }

    prop_compose! {
        fn address()(six: bool, bits: u128, port: u16) -> SocketAddr {
            let ip = if six {
                // Not an IPv4 address in disguise.
                std::net::Ipv6Addr::from_bits(bits | 1 << 127).into()
            } else {
                std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(bits as u32))
            };
            SocketAddr::new(ip, port)
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_each_prefix_of_it_may_become_it(
            client in address(),
            local in address(),
            second: bool,
            rest: Vec<u8>,
        ) {
            let version = if second { ProxyVersion::V2 } else { ProxyVersion::V1 };
            let header = written(version, Some(client), Some(local));
            // The library takes no port 0, which no client has.
            prop_assume!(second || (client.port() != 0 && local.port() != 0));
            let client = (client.is_ipv4() == local.is_ipv4()).then_some(client);
            let expected = Read::Whole(Passed { client, length: header.len() });
            for end in 0..header.len() {
                prop_assert_eq!(read(&header[..end]), Read::More, "{}", header[..end].escape_ascii());
            }
            prop_assert_eq!(read(&[header, rest].concat()), expected);
        }

        #[test]
        fn any_bytes_are_answered_and_a_header_lies_within_them(bytes: Vec<u8>, signed: bool) {
            let bytes = if signed { [SIGNATURE, &bytes].concat() } else { bytes };
            if let Read::Whole(passed) = read(&bytes) {
                prop_assert!(passed.length <= bytes.len());
            }
        }
    }
}
