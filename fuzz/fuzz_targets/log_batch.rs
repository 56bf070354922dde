//! Batches with right checksums, and with other fields that are arbitrary but near to what they
//! should be.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;

use common::{
    forge::{Forged, frame, open_whatever, segment},
    log_model::{Bytes, Choose},
};
use libfuzzer_sys::fuzz_target;

/// Records that belong together, and one that means nothing.
const RECORDS: [&[u8]; 6] = [
    b"\x04shop\x00\x03",
    b"\x04shop\x01\x04shop\x03\x07\x02\x05goods\x06orders",
    b"\x05goods\x02\x04shop\x03\x07\x02\xaa\xbb",
    b"\x05goods\x03\x04shop\x03\x07\x00",
    b"\x05goods\x04\x04shop\x03\x07",
    b"\xff",
];

/// Returns the number itself in most cases, sometimes one that is near, sometimes one that is far.
fn about(choose: &mut Bytes<'_>, number: u64) -> u64 {
    match choose.below(16) {
        0 => number.wrapping_add(1),
        1 => number.wrapping_sub(1),
        2 => u64::MAX - u64::from(choose.below(3)),
        3 => (u64::MAX >> 1).wrapping_add(u64::from(choose.below(3))).wrapping_sub(1),
        4 => u64::from(choose.below(256)),
        _ => number,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut choose = Bytes(bytes);
    let (mut body, mut previous, mut sequence, mut last) = (Vec::new(), 0, 1, 0);
    for index in 0..choose.below(6) + 1 {
        let kind = match choose.below(16) {
            0 => choose.below(5),
            1 => 3,
            _ if index == 0 => 2,
            _ => 1,
        };
        let (mut payload, mut count) = (Vec::new(), 0);
        let records = if kind == 3 { 0 } else { choose.below(5) };
        for _ in 0..records {
            let number = about(&mut choose, last + 1);
            let record = RECORDS[choose.below(RECORDS.len() as u32) as usize];
            payload.extend(frame(number, record));
            (last, count) = (number.min(u64::MAX >> 1), count + 1);
        }
        let forged = Forged {
            kind,
            sequence: about(&mut choose, sequence),
            previous: about(&mut choose, previous),
            last: about(&mut choose, last),
            count: about(&mut choose, count) as u32,
            payload,
        };
        let (batch, checksum) = forged.bytes();
        body.extend(batch);
        (previous, sequence) = (checksum, sequence + 1);
    }
    // Some damage that the checksums do not cover, and room for what a torn write leaves.
    for _ in 0..choose.below(3) {
        let at = choose.below(65_536) as usize % body.len();
        body[at] ^= choose.below(256) as u8;
    }
    body.resize(body.len() + 4096 * choose.below(3) as usize, 0);
    open_whatever(segment(body));
});
