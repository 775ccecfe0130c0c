//! The key service as a process, kept through what happens to processes: kill -9, a full disk, signals,
//! another root key, a backup and its way back.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops at the first surprise, and says what it was doing"
)]

#[path = "../common/mod.rs"]
mod common;

mod bench;
mod crash;
mod disk;
mod root_key;

use anchorhold_kms_wire::client::{Client, Endpoint, Fixed, Limits, Tcp, TlsTrust};
use anchorhold_kms_wire::sigv4::Credentials;
use serde_json::Value;
use std::path::Path;
use zeroize::Zeroizing;

pub(crate) type Calls = Client<Tcp, Fixed>;

/// A client for a service in plain HTTP that asks once.
pub(crate) fn client(url: &str) -> Calls {
    let endpoint = Endpoint {
        url: url.to_owned(),
        region: "us-east-1".to_owned(),
        tls: TlsTrust::PlainHttp,
    };
    let (id, secret) = common::Who::Owner.credentials();
    let credentials = Credentials::new(id, Zeroizing::new(secret.to_owned()));
    Client::new(&endpoint, Tcp, Fixed::new(credentials))
        .unwrap()
        .with_limits(Limits {
            attempts: 1,
            ..Limits::default()
        })
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// Reads the audit log and checks that each line names the one before it.
pub(crate) fn audited(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut previous = "0".repeat(64);
    let mut lines = Vec::new();
    for (index, line) in text.split_terminator('\n').enumerate() {
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|e| panic!("line {index}: {e}"));
        assert_eq!(value["chain"]["sequence"], index + 1, "line {index}");
        assert_eq!(value["chain"]["previous"], previous, "line {index}");
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, line.as_bytes());
        previous = hex::encode(digest);
        lines.push(value);
    }
    lines
}
