//! What comes first on a channel: perhaps a question for a document, in HTTP/1.1, whatever protocol follows it. Its
//! bytes are a stranger's: bounded, and never read further than the question's end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use anchorhold_channel::{Beginning, Nonce, NonceError, beginning};
use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// What a channel begins with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// A question for a document.
    Question(Result<Nonce, NonceError>),
    /// Something else. Nothing of it was taken away.
    Other,
}

/// A stream in front of which bytes were put back.
pub(crate) struct Rewound<S> {
    before: Bytes,
    stream: S,
}

/// Reads as far as it takes to know.
///
/// # Errors
/// The stream's; a head that is too long is something else than a question.
pub(crate) async fn first<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<(First, Rewound<S>)> {
    let mut bytes = BytesMut::with_capacity(512);
    loop {
        match beginning(&bytes) {
            Beginning::More => {
                if stream.read_buf(&mut bytes).await? == 0 {
                    // What is there is for HTTP to make sense of.
                    break;
                }
            }
            Beginning::Question { nonce, length } => {
                bytes.advance(length);
                return Ok((First::Question(nonce), rewound(bytes, stream)));
            }
            Beginning::Other => break,
        }
    }
    Ok((First::Other, rewound(bytes, stream)))
}

fn rewound<S>(before: BytesMut, stream: S) -> Rewound<S> {
    Rewound {
        before: before.freeze(),
        stream,
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.before.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let count = self.before.len().min(buffer.remaining());
        buffer.put_slice(&self.before.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    const QUESTION: &[u8] =
        b"GET /.well-known/attestation?nonce=00112233445566778899aabbccddeeff HTTP/1.1\r\nHost: x\r\n\r\n";

    /// What is seen, and what is left to read, when the bytes come in pieces of this size.
    fn begin(bytes: &[u8], piece: usize) -> (First, Vec<u8>) {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime")
            .block_on(async {
                let (mut client, server) = tokio::io::duplex(piece);
                let bytes = bytes.to_vec();
                let writing = tokio::spawn(async move {
                    let _ = client.write_all(&bytes).await;
                });
                let (seen, mut stream) = first(server).await.expect("a first look");
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await.expect("the rest");
                writing.await.expect("the writer");
                (seen, rest)
            })
    }

    #[test]
    fn a_question_is_taken_and_what_follows_it_is_not() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        for piece in [1, 7, 4096] {
            let (seen, rest) = begin(&[QUESTION, preface].concat(), piece);
            let First::Question(Ok(nonce)) = seen else {
                panic!("{seen:?}");
            };
            assert_eq!(nonce.to_string(), "00112233445566778899aabbccddeeff");
            assert_eq!(rest, preface);
        }
    }

    #[test]
    fn all_else_is_left_as_it_came() {
        let long = format!(
            "GET /.well-known/attestation HTTP/1.1\r\nX: {}\r\n\r\n",
            "x".repeat(5000)
        );
        for other in [
            &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET /.well-known/attestation",
            b"GET /.well-known/attestations HTTP/1.1\r\n\r\n",
            b"GET /.well-known/attestation/x?nonce=1 HTTP/1.1\r\n\r\n",
            b"GET /.well-known/attestation?nonce=1 HTTP/1.0\r\n\r\n",
            b"GET /.well-known/attestation?nonce=1 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            b"GET /.well-known/attestation?nonce=1 HTTP/1.1\r\nno header\r\n\r\n",
            b"\x16\x03\x01",
            b"",
            long.as_bytes(),
        ] {
            for piece in [1, 4096] {
                assert_eq!(begin(other, piece), (First::Other, other.to_vec()));
            }
        }
    }

    #[test]
    fn a_question_without_a_decent_nonce_is_a_question_all_the_same() {
        let (seen, rest) = begin(b"GET /.well-known/attestation HTTP/1.1\r\n\r\n", 4096);
        assert_eq!(seen, First::Question(Err(NonceError::Query)));
        assert!(rest.is_empty());
    }

    proptest! {
        #[test]
        fn nothing_but_a_question_is_ever_taken_away(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = bytes;
            prop_assert_eq!(begin(&bytes, 64), (First::Other, bytes.clone()));
            bytes.splice(0..0, b"GET /.well-known/attestation".iter().copied());
            match begin(&bytes, 64) {
                (First::Other, rest) => prop_assert_eq!(rest, bytes),
                (First::Question(_), rest) => prop_assert!(bytes.ends_with(&rest)),
            }
        }
    }
}
