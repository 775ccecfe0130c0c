//! The canonical form of a request: what the two sides must agree on, byte for byte.
//!
//! Source: AWS General Reference, "Create a signed AWS API request", step 1. The path rules are
//! those of all services but S3: dot segments and empty segments are removed, and what is left is
//! encoded once more.

use aws_lc_rs::digest;
use http::HeaderMap;
use http::request::Parts;

/// The query has a `%` that two hex digits do not follow.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadQuery;

/// All of the canonical request but its last line, the hash of the body. `signed` are header
/// names in lower case, sorted.
pub(super) fn head(parts: &Parts, signed: &[String]) -> Result<Vec<u8>, BadQuery> {
    let mut text = Vec::with_capacity(512);
    text.extend_from_slice(parts.method.as_str().as_bytes());
    text.push(b'\n');
    text.extend_from_slice(path(parts.uri.path()).as_bytes());
    text.push(b'\n');
    text.extend_from_slice(query(parts.uri.query().unwrap_or_default())?.as_bytes());
    text.push(b'\n');
    for name in signed {
        text.extend_from_slice(name.as_bytes());
        text.push(b':');
        header_values(&parts.headers, name, &mut text);
        text.push(b'\n');
    }
    text.push(b'\n');
    text.extend_from_slice(signed.join(";").as_bytes());
    text.push(b'\n');
    Ok(text)
}

/// The whole canonical request.
pub(super) fn request(head: &[u8], body: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(head.len() + 64);
    text.extend_from_slice(head);
    text.extend_from_slice(sha256_hex(body).as_bytes());
    text
}

pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    let mut digits = vec![0; 64];
    hex::encode_to_slice(digest::digest(&digest::SHA256, bytes), &mut digits)
        .expect("a digest has 32 bytes");
    String::from_utf8(digits).expect("digits are ASCII")
}

/// Each value trimmed, with runs of spaces as one; several values joined by commas.
fn header_values(headers: &HeaderMap, name: &str, text: &mut Vec<u8>) {
    for (index, value) in headers.get_all(name).iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        let words = value
            .as_bytes()
            .split(|byte| matches!(byte, b' ' | b'\t'))
            .filter(|word| !word.is_empty());
        for (index, word) in words.enumerate() {
            if index > 0 {
                text.push(b' ');
            }
            text.extend_from_slice(word);
        }
    }
}

fn path(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let mut text = String::with_capacity(path.len() + 1);
    for segment in &segments {
        text.push('/');
        percent_encode(segment.as_bytes(), &mut text);
    }
    if segments.is_empty() || path.ends_with('/') {
        text.push('/');
    }
    text
}

/// Parameters decoded, encoded in the one way that counts, and sorted.
fn query(query: &str) -> Result<String, BadQuery> {
    let mut pairs = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let mut encoded = (String::new(), String::new());
            percent_encode(&percent_decode(name)?, &mut encoded.0);
            percent_encode(&percent_decode(value)?, &mut encoded.1);
            Ok(encoded)
        })
        .collect::<Result<Vec<_>, BadQuery>>()?;
    pairs.sort();
    let pairs: Vec<String> = pairs
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    Ok(pairs.join("&"))
}

/// The decoded names of the query's parameters, lossily: for finding reserved ones.
pub(super) fn query_names(query: &str) -> impl Iterator<Item = String> {
    query.split('&').map(|pair| {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        percent_decode(name).map_or_else(
            |_| name.to_owned(),
            |name| String::from_utf8_lossy(&name).into_owned(),
        )
    })
}

fn percent_encode(bytes: &[u8], text: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            text.push('%');
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

fn percent_decode(text: &str) -> Result<Vec<u8>, BadQuery> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let [high, low, after @ ..] = after else {
                return Err(BadQuery);
            };
            let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(BadQuery);
            bytes.push((digit(*high)? << 4 | digit(*low)?) as u8);
            rest = after;
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_and_encoded_once_more() {
        for (given, canonical) in [
            ("/", "/"),
            ("", "/"),
            ("//", "/"),
            ("/./", "/"),
            ("/example/..", "/"),
            ("/../../x", "/x"),
            ("/a//b/", "/a/b/"),
            ("/a/./b", "/a/b"),
            ("/a%20b", "/a%2520b"),
            ("/-._~AZaz09", "/-._~AZaz09"),
            ("/a+b", "/a%2Bb"),
        ] {
            assert_eq!(path(given), canonical, "{given}");
        }
    }

    #[test]
    fn queries_are_sorted_by_name_and_then_value() {
        for (given, canonical) in [
            ("", ""),
            ("b=2&a=1", "a=1&b=2"),
            ("a=2&a=1", "a=1&a=2"),
            ("a", "a="),
            ("a=%7e%2f", "a=~%2F"),
            ("a=b=c", "a=b%3Dc"),
            ("%61=1&&", "a=1"),
        ] {
            assert_eq!(query(given).as_deref(), Ok(canonical), "{given}");
        }
        for bad in ["a=%", "a=%4", "a=%zz", "%+1=a"] {
            assert_eq!(query(bad), Err(BadQuery), "{bad}");
        }
    }

    #[test]
    fn header_values_are_trimmed_and_joined() {
        let mut headers = HeaderMap::new();
        headers.append("a", "  one   two\tthree ".parse().unwrap());
        headers.append("a", "four".parse().unwrap());
        let mut text = Vec::new();
        header_values(&headers, "a", &mut text);
        assert_eq!(text, b"one two three,four");
    }
}
