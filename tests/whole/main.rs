//! The whole path on real input: sealed data goes in, only the measured enclave
//! opens it, and every outcome is what the data says it must be.

#[path = "../common/mod.rs"]
mod common;

mod api;
mod attested_tls;
mod aws_layout;
mod backends;
mod cards;
mod conformance;
mod contract;
mod custody;
mod fields;
mod http;
mod images;
mod reasons;
mod sealed_log;
mod verify;
