//! What the log promises: durability, order, recovery, how damage is found, and that it stays
//! bounded. One behaviour a file.
//!
//! A test that needs a process of its own (its own working directory, limits or death, or only its
//! own threads) starts this binary again with the name of one test: see `support`,
//! `killed_under_load`, `paths`, `failed_sync_of_a_real_disk` and `has_one_owner`.
//!
//! To read first:
//!
//! - What every log owes its callers: `conformance`, `tasks`, `wakers`, `abandon`, `has_one_owner`,
//!   `taken_over`.
//! - What a crash may take: `crash_at_every_operation`, `crash_with_many_appenders`,
//!   `lives_against_a_model`, `killed_under_load`.
//! - What must be synced before what: `every_sync_counts`, `names_are_durable_first`.
//! - What a failure costs: `failure_poisons`, `failed_sync_of_a_real_disk`, `disk_full`, `paths`.
//! - A torn tail and damage: `torn_tail_is_cut`, `damage_is_refused`, `damage_everywhere`,
//!   `inspection`.
//! - The format: `format`, `golden`, `numbers_run_out`.
//! - The cost: `stays_bounded`, `segments_are_used_again`, `collects_in_the_background`,
//!   `opening_reads_once`, `options`.
//! - The rest: `files_are_private`, `opening_is_told`.

#[path = "../common/mod.rs"]
mod common;
#[cfg(any(target_os = "linux", feature = "tracing"))]
mod support;

mod abandon;
mod collects_in_the_background;
mod conformance;
mod crash_at_every_operation;
mod crash_with_many_appenders;
mod damage_everywhere;
mod damage_is_refused;
mod disk_full;
mod every_sync_counts;
#[cfg(target_os = "linux")]
mod failed_sync_of_a_real_disk;
mod failure_poisons;
#[cfg(unix)]
mod files_are_private;
mod format;
mod golden;
mod has_one_owner;
mod inspection;
#[cfg(unix)]
mod killed_under_load;
mod lives_against_a_model;
mod names_are_durable_first;
mod numbers_run_out;
#[cfg(feature = "tracing")]
mod opening_is_told;
mod opening_reads_once;
#[cfg(target_os = "linux")]
mod options;
#[cfg(unix)]
mod paths;
mod segments_are_used_again;
mod stays_bounded;
mod taken_over;
mod tasks;
mod torn_tail_is_cut;
mod wakers;
