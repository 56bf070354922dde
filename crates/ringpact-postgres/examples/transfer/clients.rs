//! The clients' process: a coordinator, two participants, and clients that transfer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ringpact::{CommitError, Coordinator, FileLog};
use ringpact_postgres::{BranchTimeouts, PgParticipant};
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Arguments, Result, pause};

/// Time within which a killed server comes back, and then everything is settled.
const PATIENCE: Duration = Duration::from_secs(60);

/// One transfer in this many is of more money than there is.
const TOO_MUCH_IN: u64 = 16;

struct Bank {
    coordinator: Coordinator,
    from: PgParticipant,
    to: PgParticipant,
    accounts: u64,
    next: AtomicU64,
    left: AtomicU64,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let open = |name, url: &Option<String>| open(name, url.clone().unwrap_or_default(), arguments);
    let (from, to) = (open("from", &arguments.from).await?, open("to", &arguments.to).await?);
    let log = FileLog::open(arguments.log.as_deref().unwrap_or_else(|| "log".as_ref()))?;
    let coordinator = Coordinator::builder(log)
        .name("bank")
        .async_participant("from", from.clone(), Handle::current())
        .async_participant("to", to.clone(), Handle::current())
        .open()?;
    let bank = Arc::new(Bank {
        coordinator,
        from,
        to,
        accounts: arguments.accounts,
        next: AtomicU64::new(arguments.first_id.unwrap_or_default()),
        left: AtomicU64::new(arguments.transfers),
    });
    let mut clients = JoinSet::new();
    for _ in 0..arguments.clients {
        clients.spawn(client(Arc::clone(&bank)));
    }
    while let Some(client) = clients.join_next().await {
        client?;
    }
    if !bank.coordinator.settle_async(PATIENCE).await {
        return Err(format!("not everything was settled: {:?}", bank.coordinator.status()).into());
    }
    println!("settled");
    Ok(())
}

/// Opens a participant. Its server may be starting.
async fn open(name: &str, url: String, arguments: &Arguments) -> Result<PgParticipant> {
    let opened = timeout(PATIENCE, async {
        let mut tried = 0;
        loop {
            let connections = usize::try_from(arguments.clients)?;
            let builder = PgParticipant::builder(name)
                .config(url.parse()?)
                .connections(connections)
                .control_connections(arguments.control_connections)
                .timeouts(BranchTimeouts::default())
                .max_promises(2 * connections);
            match builder.open().await {
                Ok(participant) => return Ok(participant),
                Err(error) if tried >= 20 => return Err(error.into()),
                Err(_) => {}
            }
            tried += 1;
            sleep(pause(tried)).await;
        }
    });
    opened.await?
}

/// Transfers until enough transfers have an end that is known.
async fn client(bank: Arc<Bank>) {
    let mut failed = 0;
    while bank.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
        let id = bank.next.fetch_add(1, Ordering::SeqCst);
        match bank.transfer(id).await {
            Ok(()) => {
                println!("committed {id}");
                failed = 0;
                continue;
            }
            Err(Failure::RolledBack) => {
                println!("rolled_back {id}");
                failed = 0;
            }
            // A server is away, or the end is not known: another transfer takes its place.
            Err(Failure::Unavailable) => {
                bank.left.fetch_add(1, Ordering::SeqCst);
                failed += 1;
                sleep(pause(failed)).await;
            }
        }
    }
}

enum Failure {
    /// The client was told that nothing has happened.
    RolledBack,
    /// The client was told nothing certain.
    Unavailable,
}

impl Bank {
    /// Moves money from one account to an account in the other database, with a row in each that says so.
    async fn transfer(&self, id: u64) -> std::result::Result<(), Failure> {
        let (payer, payee) = (fastrand::u64(..self.accounts), fastrand::u64(..self.accounts));
        let cents = if fastrand::u64(..TOO_MUCH_IN) == 0 { 1_000_000_000 } else { fastrand::i64(1..100) };
        let mut txn = self.coordinator.begin_async().await;
        let (paying, paid) = (self.from.branch(&mut txn), self.to.branch(&mut txn));
        // Both databases work at the same time.
        let (paying, paid) = tokio::join!(book(paying, id, payer, -cents), book(paid, id, payee, cents));
        if let Err(failure) = paying.and(paid) {
            txn.rollback();
            return Err(failure);
        }
        match txn.commit().await {
            Ok(()) => Ok(()),
            Err(CommitError::RolledBack { .. }) => Err(Failure::RolledBack),
            Err(_) => Err(Failure::Unavailable),
        }
    }
}

async fn book(
    branch: impl Future<Output = std::result::Result<ringpact_postgres::PgBranch, ringpact_postgres::XaWorkError>>,
    id: u64,
    account: u64,
    cents: i64,
) -> std::result::Result<(), Failure> {
    let branch = branch.await.map_err(|_| Failure::Unavailable)?;
    let statements = format!(
        "UPDATE account SET cents = cents + {cents} WHERE id = {account}; INSERT INTO moved VALUES ({id}, {account}, {cents})"
    );
    branch.batch_execute(&statements).await.map_err(|error| match error.as_db_error() {
        Some(_) => Failure::RolledBack,
        None => Failure::Unavailable,
    })
}
