//! The enclave: init, runtime and key handling. The only part of anchorhold that sees plaintext besides the owner.
//!
//! It is PID 1 of an image. It opens `/dev/nsm` with the published NSM crate and dials its parent with the published
//! `vsock` crate, and it must never know or ask where it runs: there is no mock, no feature and no environment variable
//! that changes what it checks. Whatever comes through vsock is a lie until it is authenticated.

pub mod api;
pub mod call;
pub mod clock;
pub mod console;
pub mod control;
pub mod data_key_cache;
pub mod fields;
pub mod init;
pub mod isolation;
pub mod jobs;
pub mod keys;
pub mod lines;
mod modules;
pub mod nsm;
pub mod reaper;
pub mod redaction;
pub mod runtime;
pub mod sealed_log;
pub mod secrets;
pub mod service;
pub mod stream;
#[expect(
    unsafe_code,
    reason = "fork, exec and bare system calls; nothing else of this crate may use unsafe"
)]
pub mod sys;
pub mod tls;
pub mod window;
