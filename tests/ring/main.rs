//! The tests of `src/ring`, one behaviour in each file. `cargo test --test ring movement` runs one
//! file.
//!
//! In reading order: what a ring answers (`keys`, `golden`, `collisions`, `replicas`, `across_zones`,
//! `replica_index`, `subset`, `subset_history`, `members`, `model`), how even it is (`balance`, `balanced`), what moves
//! (`minimal_movement`, `movement`, `ramp`, `ranges`, `pins`), how it is stored and shared (`serialised`, `shared`), load
//! (`bounded_loads`, `draining`), memory (`allocation`), and the placement of other software (`ketama`,
//! `nginx`, each with the feature of that name).

mod across_zones;
// Not under Miri, which would interpret the counting allocator at every allocation of the other
// tests.
#[cfg(not(miri))]
mod allocation;
mod balance;
mod balanced;
mod bounded_loads;
mod collisions;
mod draining;
mod golden;
#[cfg(feature = "ketama")]
mod ketama;
mod keys;
mod members;
mod minimal_movement;
mod model;
mod movement;
#[cfg(feature = "nginx")]
mod nginx;
mod pins;
mod ramp;
mod ranges;
mod replica_index;
mod replicas;
mod serialised;
mod shared;
mod subset;
mod subset_history;
mod support;
