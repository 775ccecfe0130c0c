//! A word to the C library's allocator, which no safe crate passes on.

/// Gives memory that was freed back to the system, also what lies between memory in use. For processes that have read an image
/// once and then wait for days. Where the C library is not GNU's, nothing happens.
pub(crate) fn return_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function may be called at any time from any thread; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
