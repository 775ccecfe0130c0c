//! The head of an HTTP/1 request, looked at before the enclave hears of a connection: that it is one, and that it ends.
//!
//! It is passed on as it came. What stands in it, and in what follows, is the enclave's to read.

/// The most lines that a head may have.
const MOST_LINES: usize = 100;

/// What was read so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// A whole head.
    Whole,
    /// It may become a head.
    More,
    /// It is longer than allowed.
    Large,
    /// It never will be one.
    Wrong,
}

/// Looks at the first bytes of a connection; a head may have `most` of them.
pub fn look(bytes: &[u8], most: usize) -> Look {
    let mut lines = [httparse::EMPTY_HEADER; MOST_LINES];
    let mut request = httparse::Request::new(&mut lines);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= most => Look::Whole,
        Ok(httparse::Status::Partial) if bytes.len() < most => Look::More,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Look::Large,
        Err(_) => Look::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn heads_are_whole_unfinished_too_large_or_none() {
        let head = b"POST /call HTTP/1.1\r\nHost: enclave\r\n\r\n";
        assert_eq!(look(head, 1000), Look::Whole);
        assert_eq!(
            look(&[head.as_slice(), b"body"].concat(), head.len()),
            Look::Whole
        );
        assert_eq!(look(head, head.len() - 1), Look::Large);
        assert_eq!(look(b"POST /call HTTP/1.1\r\nHost: en", 1000), Look::More);
        assert_eq!(look(b"POST /call HTTP/1.1\r\nHost: en", 20), Look::Large);
        let many = format!(
            "GET / HTTP/1.1\r\n{}\r\n",
            "a: b\r\n".repeat(MOST_LINES + 1)
        );
        assert_eq!(look(many.as_bytes(), 1 << 20), Look::Large);
        for bytes in [
            &b"\x16\x03\x01\x02\0\x01"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET\0/ HTTP/1.1\r\n",
        ] {
            assert_eq!(look(bytes, 1000), Look::Wrong, "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn a_prefix_of_a_head_may_become_it(path in "/[a-z]{0,20}", value in "[ -~]{0,40}") {
            let head = format!("GET {path} HTTP/1.1\r\nX: {value}\r\n\r\n");
            for end in 0..head.len() {
                prop_assert_eq!(look(&head.as_bytes()[..end], 1000), Look::More);
            }
            prop_assert_eq!(look(head.as_bytes(), 1000), Look::Whole);
        }

        #[test]
        fn any_bytes_are_answered(bytes: Vec<u8>, most in 0usize..100) {
            let looked = look(&bytes, most);
            prop_assert!(looked != Look::More || bytes.len() < most);
        }
    }
}
