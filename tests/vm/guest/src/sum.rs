//! Bytes to be carried, and what tells that they arrived as they were. Guest and tests share this file.

use std::io::{self, Read, Write};

/// Writes that many bytes, of which no two stretches are alike.
pub(crate) fn give(stream: &mut impl Write, length: u64) -> io::Result<()> {
    let mut state = 1u64;
    let mut buffer = vec![0; 64 * 1024];
    let mut left = length;
    while left > 0 {
        for word in buffer.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let now = left.min(buffer.len() as u64) as usize;
        stream.write_all(&buffer[..now])?;
        left -= now as u64;
    }
    Ok(())
}

/// Reads to the end: how many bytes, and a sum in which each byte and its place count.
pub(crate) fn drain(stream: &mut impl Read) -> io::Result<(u64, u64)> {
    let mut buffer = vec![0; 64 * 1024];
    let (mut count, mut sum, mut held) = (0u64, 0u64, Vec::new());
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        count += read as u64;
        let mut bytes = &buffer[..read];
        if !held.is_empty() {
            let wanted = (8 - held.len()).min(bytes.len());
            held.extend_from_slice(&bytes[..wanted]);
            bytes = &bytes[wanted..];
            if held.len() < 8 {
                continue;
            }
            sum = mixed(sum, &held);
            held.clear();
        }
        let words = bytes.chunks_exact(8);
        held.extend_from_slice(words.remainder());
        for word in words {
            sum = mixed(sum, word);
        }
    }
    held.resize(8, 0);
    Ok((count, mixed(sum, &held)))
}

fn mixed(sum: u64, word: &[u8]) -> u64 {
    (sum ^ u64::from_le_bytes(word.try_into().expect("eight bytes")))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
}
