//! The suite that every [`Shard`] must pass. For one of your own, write a [`ShardHarness`] and call
//! [`check`].
//!
//! ```no_run
//! use ringpact::sharding::conformance::{self, ShardHarness};
//! # use ringpact::{BranchId, Service, ServiceError, sharding::*, ring::*};
//! # struct Goods;
//! # #[derive(Clone, serde::Serialize, serde::Deserialize)]
//! # struct Deliver { article: u32, pieces: u32 }
//! # impl Keyed for Deliver { fn position(&self) -> Position { todo!() } }
//! # impl Service for Goods {
//! #     type Work = Deliver;
//! #     type Refusal = std::fmt::Error;
//! #     fn try_reserve(&self, _: &BranchId, _: &Deliver) -> Result<(), std::fmt::Error> { todo!() }
//! #     fn confirm(&self, _: &BranchId, _: &[Deliver]) -> Result<(), ServiceError> { todo!() }
//! #     fn cancel(&self, _: &BranchId, _: &[Deliver]) -> Result<(), ServiceError> { todo!() }
//! # }
//! # impl Shard for Goods {
//! #     fn export(&self, _: PositionRange, _: &mut Export) -> Result<(), ServiceError> { todo!() }
//! #     fn import(&self, _: PositionRange, _: Records<'_>) -> Result<(), ServiceError> { todo!() }
//! #     fn discard(&self, _: PositionRange) -> Result<(), ServiceError> { todo!() }
//! #     fn load(&self) -> Result<GateImage, ServiceError> { todo!() }
//! #     fn save(&self, _: &mut dyn FnMut() -> GateImage) -> Result<(), ServiceError> { todo!() }
//! # }
//! # struct Disk;
//! # impl Disk { fn new() -> Self { Disk } }
//! # impl Goods { fn open(_: &Disk) -> Self { Goods } fn pieces(&self, _: u32) -> Option<u32> { None } }
//!
//! /// One shard's disk, which outlives the shard.
//! struct GoodsHarness(Disk);
//!
//! impl ShardHarness for GoodsHarness {
//!     type Shard = Goods;
//!     fn open(&self) -> Goods {
//!         Goods::open(&self.0)
//!     }
//!     fn work(&self, key: u32, value: u32) -> Deliver {
//!         Deliver { article: key, pieces: value }
//!     }
//!     fn seen(&self, shard: &Goods, key: u32) -> Option<String> {
//!         shard.pieces(key).map(|pieces| pieces.to_string())
//!     }
//! }
//!
//! let report = conformance::check(|| GoodsHarness(Disk::new()));
//! assert_eq!(report.skipped, ["records of one position stay together"]);
//! ```
//!
//! Each check gets fresh shards. A check that fails panics with its name and with what it saw. A check
//! that the harness can't run is listed in [`Report::skipped`], so that what was not checked is not
//! taken for correct. That the service itself keeps to try, confirm and cancel is another suite's to
//! check: [`participant::conformance`](crate::participant::conformance).
//!
//! | file, in reading order | what is in it |
//! |---|---|
//! | `mod.rs` | [`ShardHarness`], [`check`], and the table of checks |
//! | `case.rs` | the steps that the checks are made of |
//! | `content.rs` | the checks of export, import and discard |
//! | `image.rs` | the checks of what a crash leaves of data and image |
//! | `hand_over.rs` | the checks of shards behind their hosts, which hand ranges over |

pub use crate::participant::conformance::Report;
use crate::{participant::Service, sharding::Shard};

mod case;
mod content;
mod hand_over;
mod image;

use case::Case;

/// How the suite handles a shard: opens it, has it work, and looks at what it has.
///
/// One harness is one shard's storage, and [`check`] makes as many as it needs.
pub trait ShardHarness {
    /// The shard's type.
    type Shard: Shard;

    /// Opens the shard on what is durable: the first time a new shard, later the one that a crash
    /// left. The suite drops the shard before it opens it again; a drop must save nothing.
    fn open(&self) -> Self::Shard;

    /// Returns work on the key with this number, below 2^16. Different keys have different records. On a
    /// key that does not exist the work creates it. Each value, from 1 to 100, changes the record,
    /// and differently from other values.
    fn work(&self, key: u32, value: u32) -> <Self::Shard as Service>::Work;

    /// Returns what a client sees of the key: `None` if it does not exist. It must differ after work
    /// with different values.
    fn seen(&self, shard: &Self::Shard, key: u32) -> Option<String>;

    /// Returns two different keys with equal positions. The default implementation returns `None`:
    /// none are known. With a hash of 64 bits they are hard to find, but a test can use a hasher that
    /// makes some.
    fn equal_positions(&self) -> Option<[u32; 2]> {
        None
    }
}

#[derive(Clone, Copy)]
enum Ran {
    Passed,
    Skipped,
}

type Check<H> = fn(&mut Case<'_, H>) -> Ran;

/// Returns all checks with their names. A name is the rule that a failing shard has broken.
fn checks<H: ShardHarness>() -> Vec<(&'static str, Check<H>)> {
    vec![
        ("work that is confirmed is seen, also when it is confirmed again", content::confirms),
        ("an export has the records of every key, from any start", content::exports),
        ("a range begins after its start and ends with its end", content::bounds),
        ("a range can pass position 0", content::passes_zero),
        ("a range without records exports none", content::gaps),
        ("an export ends when no more is wanted", content::ends),
        ("a chunk can be cut after each position", content::cuts),
        ("an export has what is confirmed, not what is under way", content::under_way),
        ("an import elsewhere has the same digest and the same content", content::elsewhere),
        ("a repeated import changes nothing", content::import_twice),
        ("an import replaces what was there", content::replaces),
        ("an import without records empties its range", content::import_of_nothing),
        ("what was imported can be changed and exported", content::changes_what_came),
        ("a discard deletes its range and nothing else", content::discards),
        ("records of one position stay together", content::equal_positions),
        ("a new shard owns nothing", image::is_new),
        ("data and image are saved together", image::saves),
        ("after a crash the data is that of the image", image::unsaved),
        ("the image is asked for at the moment of the data", image::at_one_moment),
        ("a hand-over moves its range and nothing else", hand_over::moves),
        ("a hand-over that is rolled back changes nothing", hand_over::rolls_back),
        ("records that are not those that were sent are refused", hand_over::wrong_digest),
        ("records that were staged without a promise are gone after a crash", hand_over::staged),
        ("a promised hand-over is carried out after a crash", hand_over::promised),
        ("a confirm is left out when its position has left and come back", hand_over::ghost),
        ("no crash loses or doubles anything", hand_over::crashes),
    ]
}

/// Runs all checks, each against fresh shards of harnesses from `make`. Blocks until all have run.
///
/// # Panics
///
/// At the first check that fails, with its name.
pub fn check<H: ShardHarness>(make: impl Fn() -> H) -> Report {
    let mut report = Report { passed: Vec::new(), skipped: Vec::new() };
    for (name, run) in checks() {
        match run(&mut Case::new(name, &make)) {
            Ran::Passed => report.passed.push(name),
            Ran::Skipped => report.skipped.push(name),
        }
    }
    report
}
