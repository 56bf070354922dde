//! Memory for what look-ups read, in large pages if the system has them.
//!
//! In pages of 4 KiB, a table of many nodes has more of them than a processor keeps addresses of, and nearly every look-up
//! waits for one to be found out. The figures are in `src/docs/lookup.md`. With the feature `large-pages`, and on Linux,
//! pages of 2 MiB are asked for; otherwise this is [`Vec::with_capacity`].

/// Room for so many elements, none of which is written yet: a page is made large when it is first written to.
pub(super) fn with_capacity<T>(capacity: usize) -> Vec<T> {
    #[cfg_attr(not(all(feature = "large-pages", target_os = "linux")), expect(unused_mut))]
    let mut room = Vec::with_capacity(capacity);
    #[cfg(all(feature = "large-pages", target_os = "linux"))]
    linux::ask_for_large_pages(room.spare_capacity_mut());
    room
}

#[cfg(all(feature = "large-pages", target_os = "linux"))]
mod linux {
    use std::mem::MaybeUninit;

    use rustix::mm::{Advice, madvise};

    /// What is smaller holds at most one whole large page, and a processor keeps the addresses of a thousand small pages.
    /// Tests and fuzz targets, whose rings are small, ask all the same.
    const FEWEST_BYTES: usize = if cfg!(any(test, fuzzing)) { 1 } else { 4 << 20 };

    /// What the kernel wants the start of a range to be a multiple of. Where its pages are larger, it may refuse, and
    /// nothing is lost.
    const SMALL_PAGE: usize = 4 << 10;

    /// Asks for large pages wherever a whole one lies in this memory. It is a hint: that the kernel has none to give, or
    /// doesn't know of them, is no error.
    #[allow(
        unsafe_code,
        reason = "no safe interface says this to the kernel, and it makes large rings faster by a third"
    )]
    pub(super) fn ask_for_large_pages<T>(room: &mut [MaybeUninit<T>]) {
        let bytes = size_of_val(room);
        if bytes < FEWEST_BYTES {
            return;
        }
        let start = room.as_mut_ptr().cast::<u8>();
        // All pages that have a byte of it, the first and the last too, which may have bytes of others.
        let before = start.addr() % SMALL_PAGE;
        let length = (before + bytes).next_multiple_of(SMALL_PAGE);
        let first = start.wrapping_sub(before).cast();
        // SAFETY: `madvise` reads and writes nothing through the pointer: for the kernel it is a number. This advice changes
        // neither what the memory of this process holds, nor which of it may be read or written, but only the size of the
        // pages that it is made of; so whatever the range, no reference, pointer or value in this program becomes invalid
        // by it, be it of this `Vec` or of who shares its first or last page.
        let _ = unsafe { madvise(first, length, Advice::LinuxHugepage) };
    }
}
