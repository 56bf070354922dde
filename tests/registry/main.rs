//! The tests of `src/registry`, one behaviour in each file. `cargo test --test registry leases`
//! runs one file.
//!
//! In reading order: how long an instance is listed (`leases`), how changes are reported
//! (`watchers`), the ring of the live instances (`follower`), and all operations against a simple
//! model (`model`).

mod follower;
mod leases;
mod model;
mod watchers;
