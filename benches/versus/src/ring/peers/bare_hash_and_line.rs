//! The hash of a key and one read of a random cache line, in a table as large as the hashed ring's.
//! No ring that keeps its tokens in memory can be faster, on this machine or another.

use ringpact::ring::{KeyHasher, Xxh3};

use crate::ring::peer::{Key, Member, Part, Peer, VIRTUAL_NODES, What};

/// Number of tokens in one cache line of the ring.
const TOKENS_A_LINE: usize = 8;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u32; 16]);

pub struct BareHashAndLine {
    lines: Vec<Line>,
}

impl Peer for BareHashAndLine {
    const NAME: &'static str = "bare-hash-and-line";

    fn part(what: What, _nodes: usize) -> Part {
        match what {
            What::Lookup | What::LookupDependent => Part::Takes,
            _ => Part::Lacks,
        }
    }

    fn build(members: &[Member]) -> Self {
        let count = members.len() * VIRTUAL_NODES / TOKENS_A_LINE;
        let mut lines = large_pages(count);
        lines.extend((0..count as u32).map(|line| Line([line; 16])));
        Self { lines }
    }

    /// The line and the word in it both follow from the hash: the least that a look-up can do.
    #[inline(always)]
    fn owner(&self, key: &Key) -> usize {
        let hash = Xxh3::default().hash_key(key.bytes()).as_u64();
        let line = ((hash >> 32) * self.lines.len() as u64) >> 32;
        self.lines[line as usize].0[hash as usize % 16] as usize
    }
}

/// Allocates room for this number of lines, in pages as the ring has them.
fn large_pages(count: usize) -> Vec<Line> {
    let mut room = Vec::with_capacity(count);
    #[cfg(target_os = "linux")]
    {
        const SMALL_PAGE: usize = 4 << 10;
        let spare = room.spare_capacity_mut();
        let (start, bytes) = (spare.as_mut_ptr().cast::<u8>(), size_of_val(spare));
        let before = start.addr() % SMALL_PAGE;
        let (start, bytes) = (start.wrapping_sub(before), (before + bytes).next_multiple_of(SMALL_PAGE));
        // SAFETY: this advice changes the size of pages, not their content. A refusal by the kernel
        // is no
        // error.
        let _ = unsafe { rustix::mm::madvise(start.cast(), bytes, rustix::mm::Advice::LinuxHugepage) };
    }
    room
}
