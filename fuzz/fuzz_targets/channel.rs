//! What a stranger says first on a channel, to the enclave and to its client: each reads its part and nothing behind it, and
//! waits for nothing without end.
#![no_main]

use anchorhold_channel::{
    Answer, Beginning, MAX_DOCUMENT_BYTES, MAX_QUESTION_BYTES, beginning, question,
};
use libfuzzer_sys::fuzz_target;

/// Heads are seldom found by chance.
const HEADS: [&[u8]; 4] = [
    b"",
    b"GET /.well-known/attestation?nonce=00112233445566778899aabbccddeeff",
    b"HTTP/1.1 200 OK\r\ncontent-length: 40\r\n",
    b"HTTP/1.1 200 OK\r\n",
];

fuzz_target!(|input: (u8, usize, &[u8])| {
    let head = HEADS[usize::from(input.0) % HEADS.len()];
    let bytes = [head, input.2].concat();

    match beginning(&bytes) {
        Beginning::More => assert!(bytes.len() < MAX_QUESTION_BYTES),
        Beginning::Question { nonce, length } => {
            assert!(length <= bytes.len().min(MAX_QUESTION_BYTES));
            // What follows changes nothing, and its own bytes alone are as much of a question.
            assert_eq!(
                beginning(&bytes[..length]),
                Beginning::Question {
                    nonce: nonce.clone(),
                    length
                }
            );
            if let Ok(nonce) = nonce {
                let again = question(&nonce, "e").expect("a question");
                let length = again.len();
                assert_eq!(
                    beginning(&again),
                    Beginning::Question {
                        nonce: Ok(nonce),
                        length
                    }
                );
            }
        }
        Beginning::Other => {}
    }

    let mut whole = Answer::default();
    let once = whole.take_of(&bytes);
    // In two pieces it is the same.
    let (first, second) = bytes.split_at(input.1 % (bytes.len() + 1));
    let mut halves = Answer::default();
    let twice = halves.take_of(first).and_then(|(used, done)| {
        if done {
            Ok((used, true))
        } else {
            halves
                .take_of(second)
                .map(|(more, done)| (used + more, done))
        }
    });
    assert_eq!(once, twice);
    if let Ok((used, done)) = once {
        assert!(used <= bytes.len());
        assert_eq!(done, !whole.document().is_empty());
        assert!(whole.document().len() <= MAX_DOCUMENT_BYTES);
        assert_eq!(whole.document(), halves.document());
        assert!(done || whole.wanted() > 0);
    }
});
