//! Sequences of operations with crashes, failures and full disks, against a plain model.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;

use common::log_model::{Bytes, live_through};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    live_through(&mut Bytes(bytes), (bytes.len() / 4).min(100) as u32);
});
