//! The question for a document, as a client writes it and the enclave reads it: HTTP/1.1, whatever protocol follows it.
//! What the enclave reads are a stranger's bytes: bounded, and nothing behind the question belongs to it.

use crate::{Nonce, NonceError, PATH};

/// Longest head of a question.
pub const MAX_QUESTION_BYTES: usize = 4096;
/// Lines in it.
const MAX_HEADERS: usize = 16;
/// Longest name of a host (RFC 1035, section 2.3.4).
const MAX_HOST_BYTES: usize = 255;

/// Writes the question with this nonce, for a host as it stands in an address: a name, IPv4, or IPv6 with or without
/// brackets. `None`: the host could not stand in a head.
pub fn question(nonce: &Nonce, host: &str) -> Option<Vec<u8>> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if host.is_empty() || host.len() > MAX_HOST_BYTES || !host.bytes().all(plain) {
        return None;
    }
    let (open, close) = if host.contains(':') && !host.starts_with('[') {
        ("[", "]")
    } else {
        ("", "")
    };
    let question = format!(
        "GET {} HTTP/1.1\r\nhost: {open}{host}{close}\r\naccept: application/cbor\r\n\r\n",
        nonce.path_and_query()
    );
    Some(question.into_bytes())
}

/// What the bytes of a channel so far begin with.
#[derive(Debug, PartialEq, Eq)]
pub enum Beginning {
    /// It cannot be told yet. Never the answer to [`MAX_QUESTION_BYTES`] bytes.
    More,
    /// A question for a document, and how many bytes it has.
    Question {
        /// Its nonce, or what is wrong with it.
        nonce: Result<Nonce, NonceError>,
        /// What follows is another's.
        length: usize,
    },
    /// Something else.
    Other,
}

/// Looks at what a channel begins with. A question has exactly this method, path and version, and no body.
pub fn beginning(bytes: &[u8]) -> Beginning {
    const PREFIX: &[u8] = b"GET /.well-known/attestation";
    let common = bytes.len().min(PREFIX.len());
    if bytes[..common] != PREFIX[..common] {
        return Beginning::Other;
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_QUESTION_BYTES => {
            let target = request.path.unwrap_or_default();
            let (path, query) = match target.split_once('?') {
                Some((path, query)) => (path, Some(query)),
                None => (target, None),
            };
            let plain = request.headers.iter().all(|header| {
                !["content-length", "transfer-encoding", "expect", "upgrade"]
                    .iter()
                    .any(|name| header.name.eq_ignore_ascii_case(name))
            });
            if request.method == Some("GET") && request.version == Some(1) && path == PATH && plain
            {
                let nonce = Nonce::from_query(query);
                Beginning::Question { nonce, length }
            } else {
                Beginning::Other
            }
        }
        Ok(httparse::Status::Partial) if bytes.len() < MAX_QUESTION_BYTES => Beginning::More,
        _ => Beginning::Other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_host_that_would_write_more_than_its_line_is_refused() {
        let nonce = Nonce::from_bytes([7; 32]).expect("a nonce");
        let asked = |host: &str| {
            question(&nonce, host).map(|bytes| String::from_utf8(bytes).expect("text"))
        };
        for (host, said) in [
            ("cards.example", "\r\nhost: cards.example\r\n"),
            ("127.0.0.1", "\r\nhost: 127.0.0.1\r\n"),
            ("::1", "\r\nhost: [::1]\r\n"),
            ("[::1]", "\r\nhost: [::1]\r\n"),
        ] {
            assert!(asked(host).expect("a question").contains(said), "{host}");
        }
        let long = "x".repeat(256);
        for host in ["", "a b", "a\r\nx: y", "a\n", "a/b", "a@b", "\u{e4}", &long] {
            assert_eq!(asked(host), None, "{host:?}");
        }
    }

    proptest! {
        #[test]
        fn every_question_is_understood_and_ends_where_it_ends(bytes in proptest::collection::vec(any::<u8>(), 16..=64), host in "[a-z0-9.:-]{1,60}", rest in proptest::collection::vec(any::<u8>(), 0..40)) {
            let nonce = Nonce::from_bytes(bytes).expect("a nonce");
            let asked = question(&nonce, &host).expect("a question");
            for end in 0..asked.len() {
                prop_assert_eq!(beginning(&asked[..end]), Beginning::More);
            }
            let length = asked.len();
            let whole = [asked, rest].concat();
            prop_assert_eq!(beginning(&whole), Beginning::Question { nonce: Ok(nonce), length });
        }

        #[test]
        fn no_bytes_are_waited_for_without_end(tail in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let bytes = [&b"GET /.well-known/attestation"[..], &tail].concat();
            match beginning(&bytes) {
                Beginning::More => prop_assert!(bytes.len() < MAX_QUESTION_BYTES),
                Beginning::Question { length, .. } => prop_assert!(length <= bytes.len().min(MAX_QUESTION_BYTES)),
                Beginning::Other => {}
            }
        }
    }
}
