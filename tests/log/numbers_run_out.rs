//! Found by fuzzing: a segment with a batch that has the last number that can be read was opened,
//! and went on with a number that could not be read any more. So the log could never be opened
//! again. No log gets there by itself; but what opens must open again.

use crate::common::forge::{Forged, frame, open_whatever, segment};

#[test]
fn a_log_at_the_end_of_its_numbers_is_refused_before_it_is_written_to() {
    let record = b"\x05goods\x02\x04shop\x03\x07\x02\xaa\xbb";
    let end = u64::MAX >> 1;
    for (sequence, last, opens) in
        [(1, 1, true), (1_000, 1_000_000, true), (end, 1, false), (1, end, false), (end + 1, 1, false)]
    {
        let carry = Forged { kind: 2, sequence, previous: 0, last, count: 1, payload: frame(1, record) };
        let log = open_whatever(segment(carry.bytes().0));
        assert_eq!(log.is_some(), opens, "batch {sequence}, record {last}");
    }
}
