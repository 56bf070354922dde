//! The README's transaction as a whole program: two services change together, or neither does.
//!
//! ```sh
//! cargo run --example hello
//! ```

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, Mutex},
};

use ringpact::{BranchId, Coordinator, FileLog, ResourceManager, Service, ServiceError};

/// A service: what each account has received and paid, by the branch that changed it. This one lives in
/// memory and forgets: to survive a restart, implement `Service::checkpoint`, too (see the page "getting
/// started").
#[derive(Default)]
struct Ledger(Mutex<BTreeMap<BranchId, Vec<(String, i64)>>>);

impl Service for Ledger {
    type Work = (String, i64);
    type Refusal = std::io::Error;

    /// Checks the work and sets aside what it needs. An error here means that the transaction
    /// should not go on.
    fn try_reserve(&self, _branch: &BranchId, (account, amount): &Self::Work) -> Result<(), std::io::Error> {
        if account.is_empty() { Err(std::io::Error::other(format!("{amount} for no account"))) } else { Ok(()) }
    }

    /// The transaction has committed. This may be called twice for one branch; the second call must
    /// change nothing.
    fn confirm(&self, branch: &BranchId, work: &[Self::Work]) -> Result<(), ServiceError> {
        self.0.lock().map_err(|poisoned| poisoned.to_string())?.insert(branch.clone(), work.to_vec());
        Ok(())
    }

    /// The transaction was rolled back. Gives back what `try_reserve` has set aside: here that is
    /// nothing.
    fn cancel(&self, _branch: &BranchId, _work: &[Self::Work]) -> Result<(), ServiceError> {
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?; // A service keeps its log in a directory that outlives it.
    let log = Arc::new(FileLog::open(dir.path().join("bank.log"))?);
    let eu = Arc::new(ResourceManager::open("eu", log.clone(), Ledger::default())?);
    let us = Arc::new(ResourceManager::open("us", log.clone(), Ledger::default())?);
    let builder = Coordinator::builder(log).participant("eu", eu.clone());
    let coordinator = builder.participant("us", us.clone()).open()?;

    let mut txn = coordinator.begin();
    eu.execute(txn.branch("eu")?, ("alice".into(), -5))?;
    us.execute(txn.branch("us")?, ("bob".into(), 5))?;
    txn.commit().wait()?; // Dropping `txn` instead rolls both back.

    println!("eu: {:?}", eu.service().0.lock().unwrap().values().collect::<Vec<_>>());
    println!("us: {:?}", us.service().0.lock().unwrap().values().collect::<Vec<_>>());
    Ok(())
}
