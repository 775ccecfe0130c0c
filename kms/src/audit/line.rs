//! One line of the log and its place in the chain.
//!
//! A line is a JSON object whose last member is
//! `"chain":{"sequence":7,"previous":"<64 hex>","mac":"<64 hex>"}`. `previous` is the SHA-256 of
//! the line before it (64 zeros in the first), `mac` is HMAC-SHA-256 over all of the line that
//! stands before `,"mac"`. So nobody can change, remove, insert or swap lines unnoticed without
//! the key, which is derived from the service's root key. Lines have no newline here.

use crate::sealing::Secret;
use aws_lc_rs::{constant_time, digest, hmac};
use serde_json::Value;

/// `previous` of the first line.
pub(super) const BEGINNING: &str =
    "0000000000000000000000000000000000000000000000000000000000000000";

const MAC_PREFIX: &str = r#","mac":""#;
const MAC_SUFFIX: &str = r#""}}"#;

/// The key of the log's MACs.
pub(crate) struct AuditKey(hmac::Key);

impl AuditKey {
    /// Derives the key from the store's key, which the root key wraps.
    pub(crate) fn derive(root: &Secret) -> Self {
        let secret = root.derive("anchorhold audit log");
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.expose()))
    }

    pub(super) fn mac(&self, text: &[u8]) -> String {
        hex64(hmac::sign(&self.0, text).as_ref())
    }

    pub(super) fn is_mac(&self, text: &[u8], mac: &str) -> bool {
        let own = self.mac(text);
        constant_time::verify_slices_are_equal(own.as_bytes(), mac.as_bytes()).is_ok()
    }
}

/// What a line says of its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) sequence: u64,
    pub(super) previous: String,
}

/// What a line has beyond its record, and its newline, at most.
pub(super) const CHAIN_BYTES: usize = 256;

/// Makes a line of a record, which is a JSON object with at least one member.
pub(super) fn write(record: &mut Vec<u8>, place: &Place, key: &AuditKey) {
    if record.last() == Some(&b'}') {
        record.pop();
    }
    let Place { sequence, previous } = place;
    record.extend_from_slice(br#","chain":{"sequence":"#);
    record.extend_from_slice(sequence.to_string().as_bytes());
    record.extend_from_slice(br#","previous":""#);
    record.extend_from_slice(previous.as_bytes());
    record.push(b'"');
    let mac = key.mac(record);
    record.extend_from_slice(MAC_PREFIX.as_bytes());
    record.extend_from_slice(mac.as_bytes());
    record.extend_from_slice(MAC_SUFFIX.as_bytes());
}

/// A line read; its MAC is checked if there is a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Good(Place),
    /// Not a line of this form.
    Strange,
    /// The MAC is not that of the line.
    Forged(Place),
}

pub(super) fn read(line: &[u8], key: Option<&AuditKey>) -> Line {
    let Some((text, mac)) = parted(line) else {
        return Line::Strange;
    };
    let Some(place) = place(line) else {
        return Line::Strange;
    };
    match key {
        Some(key) if !key.is_mac(text, mac) => Line::Forged(place),
        _ => Line::Good(place),
    }
}

/// What the MAC is over, and the MAC.
fn parted(line: &[u8]) -> Option<(&[u8], &str)> {
    let rest = line.strip_suffix(MAC_SUFFIX.as_bytes())?;
    let (rest, mac) = rest.split_at_checked(rest.len().checked_sub(64)?)?;
    let text = rest.strip_suffix(MAC_PREFIX.as_bytes())?;
    Some((text, std::str::from_utf8(mac).ok()?))
}

fn place(line: &[u8]) -> Option<Place> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let chain = value.get("chain")?;
    Some(Place {
        sequence: chain.get("sequence")?.as_u64()?,
        previous: chain.get("previous")?.as_str()?.to_owned(),
    })
}

pub(super) fn sha256_hex(line: &[u8]) -> String {
    hex64(digest::digest(&digest::SHA256, line).as_ref())
}

/// The digits of 32 bytes.
fn hex64(bytes: &[u8]) -> String {
    let mut digits = vec![0; 64];
    hex::encode_to_slice(bytes, &mut digits).expect("a digest has 32 bytes");
    String::from_utf8(digits).expect("digits are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> AuditKey {
        AuditKey::derive(&Secret::from_slice(&[byte; 32]).unwrap())
    }

    #[test]
    fn a_line_is_read_as_it_was_written_and_is_json() {
        let place = Place {
            sequence: 7,
            previous: BEGINNING.to_owned(),
        };
        let mut line = br#"{"a":"x\"}}"}"#.to_vec();
        write(&mut line, &place, &key(1));
        let value: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["a"], "x\"}}");
        assert_eq!(value["chain"]["sequence"], 7);
        assert_eq!(read(&line, Some(&key(1))), Line::Good(place.clone()));
        assert_eq!(read(&line, None), Line::Good(place.clone()));
        assert_eq!(read(&line, Some(&key(2))), Line::Forged(place));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let place = Place {
            sequence: 1,
            previous: BEGINNING.to_owned(),
        };
        let mut line = br#"{"a":"b"}"#.to_vec();
        write(&mut line, &place, &key(1));
        for at in 0..line.len() {
            let mut other = line.clone();
            other[at] ^= 1;
            assert!(
                !matches!(read(&other, Some(&key(1))), Line::Good(_)),
                "byte {at}"
            );
        }
    }
}
