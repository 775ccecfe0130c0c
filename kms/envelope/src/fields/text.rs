//! The text of a sealed field: taken apart within bounds, and put together. Nothing in it is authentic before it opened.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::FieldError;
use crate::header::TAG_LEN;
use crate::{Header, Limits, Parse};

/// What every sealed field begins with.
pub(super) const MARK: &str = "sealed.v1.";
/// Frames there are none; the format wants a length.
pub(super) const FRAME_LENGTH: u32 = 1;
/// Flags and number.
pub(super) const HEAD: usize = 1 + 4;
/// In the flags: bound to its row.
pub(super) const IN_ROW: u8 = 1;

/// What is put up with in a field's header.
const LIMITS: Limits = Limits {
    max_header_bytes: 16 * 1024,
    max_data_keys: 8,
    max_frame_length: FRAME_LENGTH,
};

/// Whether a text looks like a sealed field. Whether it is one, only opening says.
pub fn is_sealed(text: &str) -> bool {
    text.starts_with(MARK)
}

/// A sealed field's two parts, not decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts<'a> {
    pub(super) header: &'a str,
    pub(super) value: &'a str,
}

/// Takes the JSON of a sealed field apart. It has no escapes: its characters need none.
pub(super) fn parts<'a>(json: &'a str, name: &str) -> Result<Parts<'a>, FieldError> {
    let text = json
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let Some(text) = text.and_then(|text| text.strip_prefix(MARK)) else {
        return Err(FieldError::NotSealed {
            name: name.to_owned(),
        });
    };
    match text.split_once('.') {
        Some((header, value)) => Ok(Parts { header, value }),
        None => Err(malformed(name)),
    }
}

pub(super) fn malformed(name: &str) -> FieldError {
    FieldError::Malformed {
        name: name.to_owned(),
    }
}

/// The header of a field; not authentic yet.
pub(super) fn header(text: &str, name: &str) -> Result<Header, FieldError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| malformed(name))?;
    match Header::parse(&bytes, &LIMITS) {
        Ok(Parse::Complete { header, consumed }) if consumed == bytes.len() => Ok(*header),
        Ok(_) => Err(malformed(name)),
        Err(source) => Err(FieldError::Header {
            name: name.to_owned(),
            source,
        }),
    }
}

/// A field's value: flags, number, ciphertext and tag. `bytes` is scratch.
pub(super) fn value<'a>(
    text: &str,
    name: &str,
    bytes: &'a mut Vec<u8>,
) -> Result<(u8, u32, &'a mut [u8]), FieldError> {
    bytes.clear();
    URL_SAFE_NO_PAD
        .decode_vec(text, bytes)
        .map_err(|_| malformed(name))?;
    if bytes.len() < HEAD + TAG_LEN {
        return Err(malformed(name));
    }
    let (head, rest) = bytes.split_at_mut(HEAD);
    let number = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    if head[0] > IN_ROW || number == 0 {
        return Err(malformed(name));
    }
    Ok((head[0], number, rest))
}

/// Appends base64url to a text.
pub(super) fn put(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + (bytes.len() * 4).div_ceil(3), 0);
    let written = URL_SAFE_NO_PAD.encode_slice(bytes, &mut out[start..]);
    debug_assert_eq!(written, Ok(out.len() - start), "room was made for all");
}

/// What a value is bound to.
pub(super) fn associated(
    message_id: &[u8; 32],
    flags: u8,
    name: &str,
    row: Option<&[u8]>,
    out: &mut Vec<u8>,
) {
    out.clear();
    out.extend_from_slice(b"anchorhold field 1");
    out.extend_from_slice(message_id);
    out.push(flags);
    for part in [Some(name.as_bytes()), row].into_iter().flatten() {
        // Lines are far shorter than 4 GiB; a length that did not fit would only fail to open.
        out.extend_from_slice(&(part.len() as u32).to_be_bytes());
        out.extend_from_slice(part);
    }
}
