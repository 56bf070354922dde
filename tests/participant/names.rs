//! A participant is registered under its own name, or its coordinator does not open.

use std::{num::NonZeroUsize, sync::Arc};

use ringpact::{
    Coordinator, MemoryLog,
    participant::{Endpoint, Inline, Participant, Pooled},
    txn::{CoordinatorBuilder, CoordinatorError},
};

use crate::txn_support::{Manager, manager, name};

const ONE: NonZeroUsize = NonZeroUsize::MIN;

/// It used to open, and each transaction with the participant was rolled back: the participant took
/// the branches for those of another one.
#[test]
fn a_participant_under_another_name_than_its_own_is_refused_however_it_is_reached() {
    type Register = fn(CoordinatorBuilder, &str, Manager) -> CoordinatorBuilder;
    let ways: [Register; 5] = [
        |builder, name, goods| builder.participant(name, goods),
        |builder, name, goods| builder.slow_participant(name, goods, ONE),
        |builder, name, goods| builder.endpoint(name, Pooled::new(goods, ONE)),
        |builder, name, goods| builder.endpoint(name, Inline::new(goods)),
        |builder, name, goods| builder.endpoint(name, Arc::new(Inline::new(goods)) as Arc<dyn Endpoint>),
    ];
    for register in ways {
        let log = MemoryLog::new();
        let open = |name| register(Coordinator::builder(log.clone()), name, manager("goods", log.clone())).open();
        let refused = open("stock").expect_err("it is named goods");
        assert!(
            matches!(&refused, CoordinatorError::WrongName { registered, own } if registered == "stock" && own == "goods")
        );
        assert_eq!(
            refused.to_string(),
            "the participant that is registered as stock is named goods; register it as goods"
        );
        open("goods").expect("it is named so");
    }
}

#[cfg(feature = "tokio")]
#[test]
fn so_is_an_asynchronous_participant() {
    use ringpact::{
        BranchId, ParticipantError, Vote,
        participant::{AsyncParticipant, Call},
    };

    struct Goods;
    impl AsyncParticipant for Goods {
        async fn prepare(&self, _: &BranchId, _: &Call) -> Result<Vote, ParticipantError> {
            Ok(Vote::Yes)
        }
        async fn commit(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
            Ok(())
        }
        async fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
            Ok(())
        }
        async fn in_doubt(&self, _: &ringpact::Name) -> Result<Vec<BranchId>, ParticipantError> {
            Ok(Vec::new())
        }
        fn own_name(&self) -> Option<ringpact::Name> {
            Some(name("goods"))
        }
    }

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let open = |name| {
        let builder = Coordinator::builder(MemoryLog::new());
        builder.async_participant(name, Arc::new(Goods), runtime.handle().clone()).open()
    };
    assert!(matches!(open("stock"), Err(CoordinatorError::WrongName { .. })));
    open("goods").expect("it is named so");
}

#[test]
fn a_resource_manager_says_its_name() {
    let goods = manager("goods", MemoryLog::new());
    assert_eq!(goods.own_name(), Some(name("goods")));
    let debug = format!("{goods:?}");
    assert!(debug.starts_with(r#"ResourceManager { name: "goods", log: "#), "{debug}");
}
