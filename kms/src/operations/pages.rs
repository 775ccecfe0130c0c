//! Lists in parts: how many, and from where.
//!
//! A marker is the base64 of the last name that was given out. It is no secret and gives no
//! right: a list is cut to what the caller may see whatever its marker says.

use crate::refusal::Refusal;
use crate::store::{Cut, Page};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What a request asks for of a list.
pub(super) struct Wanted {
    after: Option<String>,
    limit: usize,
}

impl Wanted {
    /// `limit` was checked to be between 1 and 1,000; some lists never give more than `most`.
    pub(super) fn new(
        limit: Option<i32>,
        marker: Option<&str>,
        default: usize,
        most: usize,
    ) -> Result<Self, Refusal> {
        let limit = limit.and_then(|limit| usize::try_from(limit).ok());
        let after = marker.map(|marker| {
            STANDARD
                .decode(marker)
                .ok()
                .and_then(|name| String::from_utf8(name).ok())
                .filter(|name| !name.is_empty())
                .ok_or_else(|| {
                    Refusal::new(
                        "InvalidMarkerException",
                        "The marker that says where the list is to go on is not valid.",
                    )
                })
        });
        Ok(Self {
            after: after.transpose()?,
            limit: limit.unwrap_or(default).min(most),
        })
    }

    pub(super) fn cut(&self) -> Cut<'_> {
        Cut {
            after: self.after.as_deref(),
            limit: self.limit,
        }
    }

    /// Cuts a list that is in memory, in the order of its names.
    pub(super) fn of<T>(&self, all: Vec<T>, name: impl Fn(&T) -> String) -> Page<T> {
        let mut items: Vec<T> = all
            .into_iter()
            .filter(|item| {
                self.after
                    .as_ref()
                    .is_none_or(|after| name(item).as_str() > after.as_str())
            })
            .collect();
        let truncated = items.len() > self.limit;
        items.truncate(self.limit);
        Page { items, truncated }
    }
}

/// The marker after a part of a list.
pub(super) fn next<T>(page: &Page<T>, name: impl Fn(&T) -> String) -> Option<String> {
    let last = page.items.last().filter(|_| page.truncated)?;
    Some(STANDARD.encode(name(last)))
}
