//! The `pii` job: text and JSON in, the same with personal data replaced out, one record a line each way.
//!
//! - [`detect`]: what is personal data, and where it stands.
//! - [`fold`]: one spelling for digits, spaces and dashes of all scripts, so that no script hides anything.
//! - [`config`]: which kinds are looked for, and what is done with each.
//! - [`replace`]: what stands in its place afterwards, and the way back.
//! - [`Job`]: lines in, lines out.
//!
//! Nothing here may write a value that it found to a report, an error or a log. `restore` alone writes values, as
//! that is what it is for.

#![forbid(unsafe_code)]

pub mod config;
mod job;
pub mod key;
mod record;
pub mod replace;

pub use anchorhold_detect as detect;
pub use anchorhold_detect::fold;
pub use config::{Action, Config, Input, Kind};
pub use job::{Job, MAX_FOUND, MAX_LINE_BYTES, Mode};
