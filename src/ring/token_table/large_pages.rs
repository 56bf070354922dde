//! Memory for what look-ups read, in large pages if the system has them.
//!
//! A table of many nodes has more pages of 4 KiB than a processor keeps addresses of, and nearly
//! every look-up waits until the address of a page is found. The figures are in
//! `src/docs/lookup.md`. With the feature `large-pages`, on Linux, this module requests pages of 2
//! MiB. Otherwise it is [`Vec::with_capacity`].

/// Returns an empty vector with room for `capacity` elements. The kernel makes a page large when it
/// is first written to.
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

    /// Minimum size of memory, in bytes, for which large pages are requested. Smaller memory has at
    /// most one whole large page, and a processor keeps the addresses of a thousand small pages.
    /// Tests and fuzz targets, whose rings are small, request them for any size.
    const FEWEST_BYTES: usize = if cfg!(any(test, fuzzing)) { 1 } else { 4 << 20 };

    /// The kernel wants the start of a range to be a multiple of this number of bytes. If its pages
    /// are larger, it may refuse, which does no harm.
    const SMALL_PAGE: usize = 4 << 10;

    /// Requests large pages wherever a whole one is in this memory. It is a hint. If the kernel has
    /// none, or does not support them, that is not an error.
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
        // All pages with a byte of this memory, including the first and the last, which may have
        // bytes of other memory.
        let before = start.addr() % SMALL_PAGE;
        let length = (before + bytes).next_multiple_of(SMALL_PAGE);
        let first = start.wrapping_sub(before).cast();
        // SAFETY: `madvise` reads and writes nothing through the pointer: for the kernel it is a
        // number. This advice changes neither what the memory of this process holds, nor which of
        // it may be read or written, but only the size of the pages that it is made of. So,
        // whatever the range, no reference, pointer or value in this program becomes invalid by it,
        // be it of this `Vec` or of other memory in its first or last page.
        let _ = unsafe { madvise(first, length, Advice::LinuxHugepage) };
    }
}
