//! The kernel's word on its clock, which no safe crate asks for.

/// Whether something keeps the clock in step with the world's (`STA_UNSYNC` is not set). `None` where the kernel does not say.
pub(super) fn clock_is_synchronised() -> Option<bool> {
    // SAFETY: the structure is plain numbers, for which zero is valid; no mode is set, so that the kernel only fills it, and
    // it outlives the call.
    let (answer, status) = unsafe {
        let mut clock: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut clock), clock.status)
    };
    (answer >= 0).then_some(status & libc::STA_UNSYNC == 0)
}
