//! Messages to a shard from another process are bad until checked: whatever comes, the shard answers, never
//! panics, and goes on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use parking_lot::Mutex;
use ringpact::{
    BranchId, Call, Epoch, LogId, MemoryLog, Name, Participant, Service, ServiceError, TxnId,
    ring::{Position, PositionRange, RangeSet},
    sharding::{ByPosition, Export, GateImage, Keyed, Records, Shard, ShardHost, Tenure},
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Put(u16, u8);

impl Keyed for Put {
    fn position(&self) -> Position {
        ByPosition::<u16, u8>::new().position(&self.0)
    }
}

#[derive(Default)]
struct Values(Mutex<ByPosition<u16, u8>>);

impl Service for Values {
    type Work = Put;
    type Refusal = std::convert::Infallible;
    fn try_reserve(&self, _: &BranchId, _: &Put) -> Result<(), Self::Refusal> {
        Ok(())
    }
    fn confirm(&self, _: &BranchId, puts: &[Put]) -> Result<(), ServiceError> {
        for put in puts {
            self.0.lock().insert(put.0, put.1);
        }
        Ok(())
    }
    fn cancel(&self, _: &BranchId, _: &[Put]) -> Result<(), ServiceError> {
        Ok(())
    }
}

impl Shard for Values {
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
    fn save(&self, image: &mut dyn FnMut() -> GateImage) -> Result<(), ServiceError> {
        image();
        Ok(())
    }
}

fuzz_target!(|input: &[u8]| {
    let host = ShardHost::open("values.node", MemoryLog::new(), Values::default()).unwrap();
    let branch = TxnId::new(Name::new("fuzz").unwrap(), Epoch::new(1), 1).branch(host.name());
    let half = PositionRange { start: Position::MAX, end: Position::new(u64::MAX / 2) };
    host.adopt(&branch, &RangeSet::from_iter([half]), Tenure::FIRST).unwrap();
    let call = Call::new(LogId::from_bytes([1; 16]));
    host.prepare(&branch, &call).unwrap();
    host.commit(&branch, &call).unwrap();
    // Several messages: each after two bytes with its length.
    let mut rest = input;
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(behind.len());
        let (body, behind) = behind.split_at(length);
        // With the version byte, so that most of them get past it.
        let _ = host.message(&[&[1], body].concat());
        rest = behind;
    }
    // Whatever was said, nothing was decided: the shard owns what it owned.
    assert_eq!(host.owned(), RangeSet::from_iter([half]));
});
