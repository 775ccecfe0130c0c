//! One file for each lie that a parent can tell, and one for what a job tries. Each shows first that the same set-up works honestly, and then what
//! answers the lie, by its reason: in the key service's audit log, on the enclave's console or in what the caller is told.

#![allow(clippy::print_stderr, reason = "a failing test shows consoles")]

#[path = "../common/mod.rs"]
mod common;

mod false_service;
mod hostile_parent;
mod sealed_parts;
mod stage;

mod another_enclaves_document;
mod changed_image;
mod connection_cut;
mod debug_mode;
mod encryption_context;
mod false_key_service;
mod false_result;
mod foreign_key;
mod forged_without_tls;
mod hostile_job;
mod replayed_document;
mod rolled_back_secret;
mod sealed_frames;
mod set_clock;
mod stripped_recipient;
mod swapped_channel;
mod swapped_data_key;
mod unnamed_anchor;
