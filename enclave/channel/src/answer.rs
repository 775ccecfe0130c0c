//! The answer to the question for a document: one HTTP/1.1 response, read to its end and not a byte further. A stranger's
//! bytes; of all that HTTP allows, only what an enclave says is understood. What it holds is nothing but bytes until the
//! verifier has judged them.

/// The longest document that is taken: as long as the verifier takes one.
pub const MAX_DOCUMENT_BYTES: usize = 12 * 1024;

/// Longest head.
const MAX_HEAD_BYTES: usize = 4096;
/// Lines in it.
const MAX_HEADERS: usize = 32;

/// Why an answer holds no document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// What speaks there is no enclave of ours.
    #[error("whoever answers there did not give an attestation document: {0}")]
    Form(&'static str),
    /// It gave an error instead of a document.
    #[error("whoever answers there gave status {status} instead of an attestation document{}", hint(*status))]
    Status {
        /// HTTP status.
        status: u16,
    },
}

fn hint(status: u16) -> &'static str {
    match status {
        503 => ": too many ask at present; try again",
        404 => ": it may be a server of another kind",
        _ => "",
    }
}

/// What was read so far.
#[derive(Debug, Default)]
pub struct Answer {
    bytes: Vec<u8>,
    /// Lengths of head and body, once the head is whole.
    lengths: Option<(usize, usize)>,
}

impl Answer {
    /// How many bytes may be read now without reading further than the answer, at least one until it is whole: the head
    /// byte by byte, since what follows the answer is another's.
    pub fn wanted(&self) -> usize {
        match self.lengths {
            None => 1,
            Some((head, body)) => head + body - self.bytes.len(),
        }
    }

    /// Takes what was read, no more than is [`wanted`](Answer::wanted). True: that was all of it.
    ///
    /// # Errors
    /// See [`AnswerError`].
    pub fn take(&mut self, bytes: &[u8]) -> Result<bool, AnswerError> {
        if bytes.len() > self.wanted() {
            return Err(AnswerError::Form("its answer is longer than it says"));
        }
        self.bytes.extend_from_slice(bytes);
        if self.lengths.is_none() && self.bytes.ends_with(b"\r\n\r\n") {
            self.lengths = Some(lengths(&self.bytes)?);
        }
        match self.lengths {
            Some((head, body)) => Ok(self.bytes.len() >= head + body),
            None if self.bytes.len() >= MAX_HEAD_BYTES => {
                Err(AnswerError::Form("the head of its answer has no end"))
            }
            None => Ok(false),
        }
    }

    /// Takes as much of these bytes as belongs to the answer; how much that was, and whether it is whole.
    ///
    /// # Errors
    /// See [`AnswerError`].
    pub fn take_of(&mut self, bytes: &[u8]) -> Result<(usize, bool), AnswerError> {
        let mut used = 0;
        while used < bytes.len() {
            let count = self.wanted().min(bytes.len() - used);
            let whole = self.take(&bytes[used..used + count])?;
            used += count;
            if whole {
                return Ok((used, true));
            }
        }
        Ok((used, false))
    }

    /// The document that it holds, once it is whole.
    pub fn document(&self) -> &[u8] {
        match self.lengths {
            Some((head, body)) if self.bytes.len() == head + body => &self.bytes[head..],
            _ => &[],
        }
    }
}

fn lengths(head: &[u8]) -> Result<(usize, usize), AnswerError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        _ => return Err(AnswerError::Form("its answer is no HTTP/1.1")),
    }
    if response.version != Some(1) {
        return Err(AnswerError::Form("its answer is no HTTP/1.1"));
    }
    let status = response.code.unwrap_or_default();
    if status != 200 {
        return Err(AnswerError::Status { status });
    }
    let mut length = None;
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(AnswerError::Form("its answer does not say its length"));
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            let said = std::str::from_utf8(header.value)
                .ok()
                .filter(|said| said.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|said| said.parse::<usize>().ok());
            if said.is_none() || length.is_some() {
                return Err(AnswerError::Form("its answer's length is unclear"));
            }
            length = said;
        }
    }
    match length {
        Some(length @ 1..=MAX_DOCUMENT_BYTES) => Ok((head.len(), length)),
        Some(_) => Err(AnswerError::Form(
            "its answer is empty, or longer than a document",
        )),
        None => Err(AnswerError::Form("its answer does not say its length")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The document and what is left; no document where there are too few bytes.
    fn read(bytes: &[u8]) -> Result<(Vec<u8>, &[u8]), AnswerError> {
        let mut answer = Answer::default();
        let (used, whole) = answer.take_of(bytes)?;
        assert_eq!(whole, !answer.document().is_empty());
        Ok((answer.document().to_vec(), &bytes[used..]))
    }

    #[test]
    fn a_document_is_read_and_nothing_after_it() {
        let bytes = b"HTTP/1.1 200 OK\r\ncontent-type: application/cbor\r\nContent-Length: 3\r\n\r\nabcHTTP";
        let (document, rest) = read(bytes).expect("an answer");
        assert_eq!((document.as_slice(), rest), (&b"abc"[..], &b"HTTP"[..]));
    }

    #[test]
    fn an_answer_that_is_cut_anywhere_is_none() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), Ok((Vec::new(), &b""[..])), "{end}");
        }
    }

    #[test]
    fn what_is_no_plain_answer_is_refused() {
        let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(5000));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: 1\r\n".repeat(40));
        for bytes in [
            "HTTP/1.1 200 OK\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 12289\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
            "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc",
            "SSH-2.0-OpenSSH\r\n\r\n",
            "\r\n\r\n",
            &long,
            &many,
        ] {
            assert!(
                matches!(read(bytes.as_bytes()), Err(AnswerError::Form(_))),
                "{bytes}"
            );
        }
        let busy = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}";
        let error = read(busy.as_bytes()).expect_err("busy");
        assert_eq!(error, AnswerError::Status { status: 503 });
        assert!(error.to_string().contains("try again"), "{error}");
    }

    proptest! {
        #[test]
        fn no_answer_panics_or_is_kept_beyond_its_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..6000), whole in any::<bool>()) {
            let mut bytes = bytes;
            if whole {
                bytes.splice(0..0, b"HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n".iter().copied());
            }
            if let Ok((document, _)) = read(&bytes) {
                prop_assert!(document.len() <= MAX_DOCUMENT_BYTES);
            }
        }
    }
}
