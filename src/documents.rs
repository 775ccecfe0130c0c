//! Attestation documents as files: raw, base64 or hex. Judges nothing.

use std::path::Path;

use anchorhold_attestation::MAX_DOCUMENT_BYTES;
use base64::Engine as _;

use crate::files;

/// Room for the longest document as hex with line breaks, and for a few bytes more, so that a
/// document which is a little too long is said to be so.
const LIMIT: u64 = 4 * MAX_DOCUMENT_BYTES as u64;

/// Reads a document from `path` (`-`: standard input) in any of the three forms.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    Ok(decode(files::read_bounded(path, LIMIT)?))
}

/// Documents start with a byte that neither base64 nor hex text has.
fn decode(bytes: Vec<u8>) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(&bytes) else {
        return bytes;
    };
    let compact: String = text.split_whitespace().collect();
    if let Ok(decoded) = hex::decode(&compact) {
        return decoded;
    }
    for engine in [
        &base64::engine::general_purpose::STANDARD,
        &base64::engine::general_purpose::URL_SAFE,
        &base64::engine::general_purpose::STANDARD_NO_PAD,
        &base64::engine::general_purpose::URL_SAFE_NO_PAD,
    ] {
        if let Ok(decoded) = engine.decode(&compact) {
            return decoded;
        }
    }
    bytes
}

/// An instant for people, from milliseconds since 1970.
pub(crate) fn when(milliseconds: u64) -> String {
    i64::try_from(milliseconds)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(
            || format!("{milliseconds} ms after 1970"),
            |time| time.to_string(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_read_in_any_of_their_forms() {
        let document = [0x84, 0x44, 0xa1, 0x01, 0x38, 0x22, 0xff, 0xfe, 0xfb];
        for form in [
            document.to_vec(),
            hex::encode(document).into_bytes(),
            hex::encode_upper(document).into_bytes(),
            b"8444 a101\r\n3822 fffefb\n".to_vec(),
            b"hEShATgi//77\n".to_vec(),
            b"hEShATgi__77".to_vec(),
            b"hESh\nATgi\n//77".to_vec(),
        ] {
            assert_eq!(decode(form), document);
        }
        assert_eq!(decode(b"hEShATgi/w==".to_vec()), document[..7]);
        assert_eq!(decode(b"hEShATgi/w".to_vec()), document[..7]);
    }

    #[test]
    fn what_is_none_of_them_stays_as_it_is() {
        for bytes in [&b"no document!"[..], b"\xd2\x84", b"{}"] {
            assert_eq!(decode(bytes.to_vec()), bytes);
        }
    }
}
