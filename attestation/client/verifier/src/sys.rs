//! The doors of the WebAssembly module. Who calls is the package's own JavaScript: it asks for room, writes a question
//! there, hands it over, and frees the answer.
//!
//! An answer begins with its length in four bytes, little-endian, without themselves.
#![allow(unsafe_code, reason = "memory crosses between two languages here")]

use crate::asked::{MAX_QUESTION_BYTES, ask};

/// Room for a question of that many bytes. Null: too long.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn anchorhold_alloc(length: usize) -> *mut u8 {
    if length > MAX_QUESTION_BYTES {
        return std::ptr::null_mut();
    }
    Box::into_raw(vec![0_u8; length].into_boxed_slice()).cast()
}

/// Answers the question there, and frees it.
///
/// # Safety
/// `pointer` came from [`anchorhold_alloc`] with this `length`, and is not used again.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn anchorhold_ask(pointer: *mut u8, length: usize) -> *mut u8 {
    // SAFETY: the caller hands over what `anchorhold_alloc` gave, whose length this is.
    let question = unsafe { taken(pointer, length) };
    let answer = ask(&question);
    let length = u32::try_from(answer.len()).unwrap_or(0);
    let mut framed = Vec::with_capacity(4 + answer.len());
    framed.extend_from_slice(&length.to_le_bytes());
    framed.extend_from_slice(&answer);
    Box::into_raw(framed.into_boxed_slice()).cast()
}

/// Frees an answer.
///
/// # Safety
/// `pointer` came from [`anchorhold_ask`], `length` is the length that stands there, and it is not used again.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn anchorhold_free(pointer: *mut u8, length: usize) {
    // SAFETY: the caller hands back what `anchorhold_ask` gave, which is four bytes longer than what it says.
    drop(unsafe { taken(pointer, length + 4) });
}

/// # Safety
/// `pointer` is of a boxed slice of this length that nobody else uses.
unsafe fn taken(pointer: *mut u8, length: usize) -> Box<[u8]> {
    // SAFETY: as above.
    unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(pointer, length)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_goes_through_the_doors_and_its_answer_comes_back() {
        let question = br#"{"do":"answer","bytes":""}"#;
        let pointer = anchorhold_alloc(question.len());
        // SAFETY: as JavaScript does it: room of that length, handed over once, freed once.
        let said = unsafe {
            std::ptr::copy_nonoverlapping(question.as_ptr(), pointer, question.len());
            let answer = anchorhold_ask(pointer, question.len());
            let length = answer.cast::<[u8; 4]>().read_unaligned();
            let length = u32::from_le_bytes(length) as usize;
            let said = std::slice::from_raw_parts(answer.add(4), length).to_vec();
            anchorhold_free(answer, length);
            said
        };
        assert_eq!(said, br#"{"more":1}"#);
        assert!(anchorhold_alloc(MAX_QUESTION_BYTES + 1).is_null());
    }
}
