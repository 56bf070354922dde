//! What a plan and a change under way say beforehand: positions that can't move, the pace, the time that is left.

use std::{sync::Arc, thread, time::Duration};

use parking_lot::Mutex;
use ringpact::{
    BranchId, MemoryLog, Service, ServiceError,
    ring::{NodeId, Position, PositionRange},
    sharding::{
        ByPosition, Cluster, Connection, Export, GateImage, Keyed, MAX_CHUNK_BYTES, Pace, Records, Shard, ShardHost,
        shard_name,
    },
};

use crate::{
    ledger::{EQUAL, Places, position},
    town::{SOON, Town, ring, slowly},
};

/// A shard of texts, one for each key, of which some are too long to move.
#[derive(Default)]
struct Texts(Mutex<ByPosition<u32, Vec<u8>, Places>>);

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Never;

impl Keyed for Never {
    fn position(&self) -> Position {
        Position::new(0)
    }
}

impl Service for Texts {
    type Work = Never;
    type Refusal = std::convert::Infallible;
    fn try_reserve(&self, _: &BranchId, _: &Never) -> Result<(), Self::Refusal> {
        Ok(())
    }
    fn confirm(&self, _: &BranchId, _: &[Never]) -> Result<(), ServiceError> {
        Ok(())
    }
    fn cancel(&self, _: &BranchId, _: &[Never]) -> Result<(), ServiceError> {
        Ok(())
    }
}

impl Shard for Texts {
    fn export(&self, range: PositionRange, into: &mut Export) -> Result<(), ServiceError> {
        self.0.lock().export(range, into)
    }
    fn import(&self, range: PositionRange, records: Records<'_>) -> Result<(), ServiceError> {
        self.0.lock().import(range, records)
    }
    fn discard(&self, range: PositionRange) -> Result<(), ServiceError> {
        self.0.lock().discard(range);
        Ok(())
    }
    fn load(&self) -> Result<GateImage, ServiceError> {
        Ok(GateImage::new())
    }
    fn save(&self, _: &mut dyn FnMut() -> GateImage) -> Result<(), ServiceError> {
        Ok(())
    }
}

/// A key whose text is too long, and two keys at one position whose texts are too long together.
const LONG: u32 = 30;
const HALF: usize = MAX_CHUNK_BYTES / 2 + 100;

#[test]
fn a_plan_names_each_position_that_can_not_move_and_so_does_the_change() {
    let (shards, texts): (Arc<Mutex<Vec<_>>>, _) = (Arc::default(), Texts::default());
    {
        let mut texts = texts.0.lock();
        (0..50).for_each(|key| _ = texts.insert(key, vec![1; 40_000]));
        EQUAL.iter().for_each(|key| _ = texts.insert(*key, vec![2; HALF]));
        texts.insert(LONG, vec![3; 2 * HALF]);
    }
    let (first, started) = (Mutex::new(Some(texts)), Arc::clone(&shards));
    let builder = Cluster::builder(MemoryLog::new()).first_ring(ring(&["a"]));
    let (builder, _) = builder.service("texts", move |node: &NodeId| {
        let texts = first.lock().take().unwrap_or_default();
        let host = Arc::new(ShardHost::open(shard_name("texts", node)?.as_str(), MemoryLog::new(), texts)?);
        started.lock().push(Arc::clone(&host));
        Ok(Connection::local(host))
    });
    let cluster = builder.open().unwrap();
    let all = PositionRange { start: Position::MAX, end: Position::MAX };
    let plan = cluster.change().unwrap().join("b").pin(all, "b").plan().unwrap();
    let mut expected = [(position(LONG), 2 * HALF), (position(EQUAL[0]), 2 * HALF)].map(|(position, bytes)| {
        let range = bytes as u64..bytes as u64 + 100;
        (position, range)
    });
    expected.sort_by_key(|(position, _)| *position);
    let mut found = plan.oversized().unwrap();
    found.sort_by_key(|oversized| oversized.position);
    assert_eq!(found.len(), 2, "{found:?}");
    for (found, (position, bytes)) in found.iter().zip(&expected) {
        assert_eq!((found.position, found.node.as_str(), found.shard.as_str()), (*position, "a", "texts.a"));
        assert!(bytes.contains(&found.bytes), "{found:?}");
    }

    let moving = plan.start(Pace::new().unthrottled()).unwrap();
    let is_named = || {
        let named = |blocked: &ringpact::sharding::Blocked| {
            expected.iter().any(|(position, _)| blocked.reason.contains(&format!("position {} ", position.as_u64())))
        };
        moving.progress().blocked.iter().any(named)
    };
    while !is_named() {
        assert!(!moving.wait(Duration::from_millis(1)));
    }
    let from = Arc::clone(&shards.lock()[0]);
    for key in EQUAL.into_iter().chain([LONG]) {
        from.shard().0.lock().insert(key, b"short".to_vec());
    }
    assert!(moving.wait(SOON), "{:?}", moving.progress());
    let to = Arc::clone(&shards.lock()[1]);
    assert_eq!((from.shard().0.lock().len(), to.shard().0.lock().len()), (0, 50));
}

#[test]
fn progress_has_the_pace_and_the_time_that_is_left() {
    let town = Town::new(&["a", "b"]);
    let open = town.open();
    open.fill(40);
    let pace = slowly().bytes_per_second(400);
    assert_eq!((pace.max_bytes_per_second(), pace.max_chunks(), pace.max_chunk_bytes()), (Some(400), (1, 1), 60));
    assert_eq!(pace.target_freeze(), ringpact::sharding::DEFAULT_FREEZE);
    let moving = open.cluster.change().unwrap().join("c").plan().unwrap().start(pace.clone()).unwrap();
    let progress = loop {
        let progress = moving.progress();
        if progress.chunks > 1 {
            break progress;
        }
        thread::sleep(Duration::from_millis(1));
    };
    assert!(progress.remaining.is_some_and(|time| time > Duration::ZERO), "{progress:?}");
    assert_eq!(progress.pace, Some(pace));
    moving.set_pace(slowly()).unwrap();
    assert!(moving.progress().pace.is_none_or(|pace| pace == slowly()));
    assert!(moving.wait(SOON));
    assert_eq!(moving.progress().pace, None);
}
