//! An allocator that notices when memory is given back with the key in it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The key that is looked for: nothing else looks like it.
pub(crate) const KEY: [u8; 32] = [
    0x9b, 0x41, 0x6e, 0xf3, 0x0d, 0xa7, 0x58, 0xc2, 0x35, 0xee, 0x11, 0x84, 0x7c, 0xd9, 0x62, 0xaf,
    0x03, 0xb6, 0x4f, 0x98, 0x2a, 0xe5, 0x71, 0xcc, 0x16, 0x8d, 0x53, 0xfa, 0x29, 0x90, 0x67, 0xde,
];

static FOUND: AtomicUsize = AtomicUsize::new(0);

/// How many blocks were freed that held the key, or half of it.
pub(crate) fn freed_with_the_key() -> usize {
    FOUND.load(Ordering::SeqCst)
}

struct Watching;

#[global_allocator]
static ALLOCATOR: Watching = Watching;

// SAFETY: all is left to the system's allocator; blocks are zeroed first, so that every byte of one can be read.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block has this size, is the caller's until it is freed below, and was initialized when it was made.
        let bytes = unsafe { std::slice::from_raw_parts(block, layout.size()) };
        let half = |half: &[u8]| bytes.windows(half.len()).any(|window| window == half);
        if bytes.len() >= 16 && (half(&KEY[..16]) || half(&KEY[16..])) {
            FOUND.fetch_add(1, Ordering::SeqCst);
        }
        // SAFETY: block and layout are the caller's, from `alloc`.
        unsafe { System.dealloc(block, layout) }
    }
}
