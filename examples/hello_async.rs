//! A transaction from async code, on Tokio: a service in this process, and a payment provider that
//! is called by await.
//!
//! ```sh
//! cargo run --example hello_async --features tokio
//! ```

use std::{error::Error, num::NonZeroUsize, sync::Arc, time::Duration};

use ringpact::{
    BranchId, Coordinator, MemoryLog, Name, ParticipantError, ResourceManager, Service, ServiceError, Vote,
    participant::{AsyncParticipant, Call},
};

/// A service with a try, a confirm and a cancel. Its calls may block: the coordinator calls it on
/// threads of its own.
struct Stock;

impl Service for Stock {
    type Work = u32;
    type Refusal = std::io::Error;

    fn try_reserve(&self, _: &BranchId, items: &u32) -> Result<(), std::io::Error> {
        if *items > 10 { Err(std::io::Error::other("more than 10 items")) } else { Ok(()) }
    }
    fn confirm(&self, branch: &BranchId, items: &[u32]) -> Result<(), ServiceError> {
        println!("{branch}: {items:?} items sent");
        Ok(())
    }
    fn cancel(&self, branch: &BranchId, _: &[u32]) -> Result<(), ServiceError> {
        println!("{branch}: items kept");
        Ok(())
    }
}

/// A participant whose methods are async. A real one awaits a database or an HTTP client here,
/// under the branch's id.
struct Payments;

impl AsyncParticipant for Payments {
    async fn prepare(&self, _: &BranchId, _: &Call) -> Result<Vote, ParticipantError> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(Vote::Yes)
    }
    async fn commit(&self, branch: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        println!("{branch}: charged");
        Ok(())
    }
    async fn rollback(&self, branch: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        println!("{branch}: not charged");
        Ok(())
    }
    async fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        Ok(Vec::new()) // A real one lists what it has prepared and not ended.
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let log = Arc::new(MemoryLog::new()); // `FileLog::open("shop.log")?` survives crashes.
    let stock = Arc::new(ResourceManager::open("stock", log.clone(), Stock)?);
    let coordinator = Coordinator::builder(log)
        .slow_participant("stock", stock.clone(), NonZeroUsize::new(2).unwrap())
        .async_participant("payments", Payments, tokio::runtime::Handle::current())
        .open()?;

    let mut txn = coordinator.begin_async().await;
    stock.execute(txn.branch("stock")?, 3)?;
    txn.branch("payments")?;
    let commit = txn.commit();
    let delivered = commit.delivered();
    commit.await?; // Committed: the decision is durable.
    delivered.await?; // Carried out: both have acknowledged it.
    Ok(())
}
