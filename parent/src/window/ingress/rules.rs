//! What an ingress lets in: who, how many, how fast, how much, and what is asked of a connection before the enclave hears of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::proxy::ProxyVersion;
use super::sources::{Bounds, Rate};
use crate::window::Network;

/// The least that a byte rate lets through at once.
const LEAST_AT_ONCE: u64 = 64 * 1024;

/// The largest head that may be asked for.
const LARGEST_HEAD: usize = 256 * 1024;

/// What is asked of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IngressKind {
    /// Nothing: bytes are bytes. The enclave may speak first.
    #[default]
    Tcp,
    /// A whole head of an HTTP/1 request. What follows is not looked at.
    Http,
}

/// The rules of one ingress. Whatever is absent is as in [`Default`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// What is asked of a connection.
    pub kind: IngressKind,
    /// Networks that may connect; empty: all. Users of this host, on Unix sockets, are kept apart by the file's mode.
    pub allow: Vec<Network>,
    /// Networks that may not, whatever else is said.
    pub deny: Vec<Network>,
    /// Connections at once.
    pub connections: u32,
    /// Connections at once of one source: an IPv4 address, the first 64 bits of an IPv6 address, a user of this host.
    pub source_connections: u32,
    /// New connections in a second; as many may come at once.
    pub new_per_second: Option<u32>,
    /// The same of one source.
    pub source_new_per_second: Option<u32>,
    /// Bytes in a second, both ways together.
    pub bytes_per_second: Option<u64>,
    /// The same of one source.
    pub source_bytes_per_second: Option<u64>,
    /// Bytes of one flow, both ways together; then it is cut.
    pub flow_bytes: Option<u64>,
    /// How long a connection may say nothing, in ms, before the enclave hears of it. Where absent, it need not say anything.
    pub first_byte_ms: Option<u64>,
    /// How long a head may take from its beginning to its end, in ms: of HTTP, of PROXY.
    pub head_ms: u64,
    /// The largest head of HTTP, in bytes.
    pub head_bytes: usize,
    /// How long nothing may move, in ms.
    pub idle_ms: u64,
    /// How long the enclave's port may take to be reached, in ms.
    pub connect_ms: u64,
    /// Load balancers. Where there are any, they alone may connect, and each connection begins with a PROXY header (1 or 2)
    /// that says whose it is.
    pub proxy_from: Vec<Network>,
    /// The PROXY header with which the enclave is told whose connection it is.
    pub proxy_to_enclave: Option<ProxyVersion>,
    /// Sources that are told apart at once; more share the limits of one.
    pub sources: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            kind: IngressKind::default(),
            allow: Vec::new(),
            deny: Vec::new(),
            connections: 1024,
            source_connections: 128,
            new_per_second: Some(1000),
            source_new_per_second: Some(200),
            bytes_per_second: None,
            source_bytes_per_second: None,
            flow_bytes: None,
            first_byte_ms: None,
            head_ms: 10_000,
            head_bytes: 16 * 1024,
            idle_ms: 300_000,
            connect_ms: 10_000,
            proxy_from: Vec::new(),
            proxy_to_enclave: None,
            sources: 16 * 1024,
        }
    }
}

/// Why rules cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} = {value}: {remedy}")]
pub struct RulesError {
    /// The setting.
    pub name: &'static str,
    /// What it is set to.
    pub value: u64,
    /// What it may be.
    pub remedy: &'static str,
}

impl Rules {
    /// Whether they can be kept.
    pub fn check(&self) -> Result<(), RulesError> {
        let not_zero = [
            ("connections", u64::from(self.connections)),
            ("source_connections", u64::from(self.source_connections)),
            ("new_per_second", self.new_per_second.map_or(1, u64::from)),
            (
                "source_new_per_second",
                self.source_new_per_second.map_or(1, u64::from),
            ),
            ("bytes_per_second", self.bytes_per_second.unwrap_or(1)),
            (
                "source_bytes_per_second",
                self.source_bytes_per_second.unwrap_or(1),
            ),
            ("flow_bytes", self.flow_bytes.unwrap_or(1)),
            ("first_byte_ms", self.first_byte_ms.unwrap_or(1)),
            ("head_ms", self.head_ms),
            ("idle_ms", self.idle_ms),
            ("connect_ms", self.connect_ms),
            ("sources", self.sources as u64),
            ("head_bytes", self.head_bytes as u64),
        ];
        if let Some((name, value)) = not_zero.into_iter().find(|(_, value)| *value == 0) {
            return Err(RulesError {
                name,
                value,
                remedy: "it must be at least 1; leave it out for its default",
            });
        }
        if self.head_bytes > LARGEST_HEAD {
            return Err(RulesError {
                name: "head_bytes",
                value: self.head_bytes as u64,
                remedy: "it may be at most 262144",
            });
        }
        Ok(())
    }

    pub(super) fn bounds(&self) -> Bounds {
        let new = |per_second: Option<u32>| {
            per_second.map(|per_second| Rate {
                per_second: per_second.into(),
                at_once: per_second.into(),
            })
        };
        let bytes = |per_second: Option<u64>| {
            per_second.map(|per_second| Rate {
                per_second,
                at_once: per_second.max(LEAST_AT_ONCE),
            })
        };
        Bounds {
            connections: self.connections,
            of_source: self.source_connections,
            new: new(self.new_per_second),
            new_of_source: new(self.source_new_per_second),
            bytes: bytes(self.bytes_per_second),
            bytes_of_source: bytes(self.source_bytes_per_second),
            sources: self.sources,
        }
    }

    pub(super) fn admits(&self, address: std::net::IpAddr) -> bool {
        let within = |networks: &[Network]| networks.iter().any(|of| of.contains(address));
        !within(&self.deny) && (self.allow.is_empty() || within(&self.allow))
    }

    pub(super) fn is_balancer(&self, address: std::net::IpAddr) -> bool {
        self.proxy_from.iter().any(|of| of.contains(address))
    }

    /// How long the first byte may take; for a head there is always a time.
    pub(super) fn first_byte(&self) -> Option<Duration> {
        let of_head = (self.kind == IngressKind::Http).then_some(self.head_ms);
        self.first_byte_ms.or(of_head).map(Duration::from_millis)
    }

    pub(super) fn head(&self) -> Duration {
        Duration::from_millis(self.head_ms)
    }

    pub(super) fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }

    pub(super) fn connect(&self) -> Duration {
        Duration::from_millis(self.connect_ms)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    #[test]
    fn what_is_denied_stays_out_whatever_is_allowed() {
        let rules = Rules {
            allow: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
            deny: vec!["10.9.0.0/16".parse().unwrap()],
            ..Rules::default()
        };
        for (address, admitted) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("10.9.2.3", false),
            ("::ffff:10.9.2.3", false),
            ("192.0.2.1", false),
            ("::1", true),
        ] {
            assert_eq!(
                rules.admits(address.parse().unwrap()),
                admitted,
                "{address}"
            );
        }
        assert!(Rules::default().admits("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn rules_that_let_nothing_through_are_refused_by_name() {
        let rules = Rules {
            source_connections: 0,
            ..Rules::default()
        };
        let error = rules.check().unwrap_err().to_string();
        assert!(error.starts_with("source_connections = 0: "), "{error}");
        let rules = Rules {
            head_bytes: 1 << 20,
            ..Rules::default()
        };
        assert_eq!(rules.check().unwrap_err().name, "head_bytes");
        Rules::default().check().unwrap();
        let typed = r#"{"kind":"http","conections":5}"#;
        assert!(serde_json::from_str::<Rules>(typed).is_err());
    }
}
