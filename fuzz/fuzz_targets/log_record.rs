//! Arbitrary bytes as one record, in a batch that is right otherwise. Either they are a record, and
//! keep their meaning when they are carried, or they are refused.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;

use common::forge::{Forged, frame, open_whatever, segment};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let forged = Forged { kind: 2, sequence: 1, previous: 0, last: 1, count: 1, payload: frame(1, bytes) };
    if let Some(log) = open_whatever(segment(forged.bytes().0)) {
        assert!(log.recovery().live <= 1);
    }
});
