//! Arbitrary bytes as a segment: as they are, or after a right header.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;

use common::forge::{open_whatever, segment};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if bytes.starts_with(b"ringpact") {
        open_whatever(bytes.to_vec());
    } else {
        open_whatever(segment(bytes.to_vec()));
    }
});
