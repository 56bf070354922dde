//! The clients' process: a coordinator, two participants or three, and clients that transfer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ringpact::{CommitError, Coordinator, FileLog};
use ringpact_postgres::{BranchTimeouts, PgBranch, PgParticipant, XaWorkError};
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Arguments, Result, fees::Fees, pause};

/// Time within which a killed server comes back, and then everything is settled.
const PATIENCE: Duration = Duration::from_secs(60);

/// One transfer in this many is of more money than there is.
const TOO_MUCH_IN: u64 = 16;

struct Bank {
    coordinator: Coordinator,
    from: PgParticipant,
    to: PgParticipant,
    fees: Option<Fees>,
    accounts: u64,
    next: AtomicU64,
    left: AtomicU64,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let open = |name, url: &Option<String>| open(name, url.clone().unwrap_or_default(), arguments);
    let (from, to) = (open("from", &arguments.from).await?, open("to", &arguments.to).await?);
    let log = FileLog::open(arguments.log.as_deref().unwrap_or_else(|| "log".as_ref()))?;
    let mut builder = Coordinator::builder(log)
        .name(&arguments.coordinator)
        .async_participant("from", from.clone(), Handle::current())
        .async_participant("to", to.clone(), Handle::current());
    let mut fees = None;
    if let Some(url) = &arguments.mariadb {
        let opened = patiently(async || Fees::open(url, arguments.clients).await).await?;
        builder = builder.async_participant("fees", opened.participant(), Handle::current());
        fees = Some(opened);
    }
    let coordinator = builder.open()?;
    let bank = Arc::new(Bank {
        coordinator,
        from,
        to,
        fees,
        accounts: arguments.accounts,
        next: AtomicU64::new(arguments.first_id.unwrap_or_default()),
        left: AtomicU64::new(arguments.transfers),
    });
    let mut clients = JoinSet::new();
    for _ in 0..arguments.clients {
        clients.spawn(client(Arc::clone(&bank)));
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    if !bank.coordinator.settle_async(PATIENCE).await {
        return Err(format!("not everything was settled: {:?}", bank.coordinator.status()).into());
    }
    println!("settled");
    Ok(())
}

/// Opens a participant.
async fn open(name: &str, url: String, arguments: &Arguments) -> Result<PgParticipant> {
    let connections = usize::try_from(arguments.clients)?;
    let open = async || {
        let builder = PgParticipant::builder(name)
            .config(url.parse()?)
            .connections(connections)
            .control_connections(arguments.control_connections)
            .timeouts(BranchTimeouts::default())
            .max_promises(2 * connections);
        Ok(builder.open().await?)
    };
    patiently(open).await
}

/// Opens something whose server may be starting.
async fn patiently<T>(open: impl AsyncFn() -> Result<T>) -> Result<T> {
    let opened = timeout(PATIENCE, async {
        let mut tried = 0;
        loop {
            match open().await {
                Err(error) if tried >= 20 => return Err(error),
                Err(_) => {}
                opened => return opened,
            }
            tried += 1;
            sleep(pause(tried)).await;
        }
    });
    opened.await?
}

/// Transfers until enough transfers have an end that is known. Gives up if for some time none has one.
async fn client(bank: Arc<Bank>) -> Result<()> {
    let (mut failed, mut last_end) = (0, Instant::now());
    while bank.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
        let id = bank.next.fetch_add(1, Ordering::SeqCst);
        let error = match bank.transfer(id).await {
            Ok(is_committed) => {
                println!("{} {id}", if is_committed { "committed" } else { "rolled_back" });
                (failed, last_end) = (0, Instant::now());
                continue;
            }
            Err(error) => error,
        };
        // A server is away, or the end is not known: another transfer takes its place.
        bank.left.fetch_add(1, Ordering::SeqCst);
        if last_end.elapsed() > PATIENCE {
            return Err(error);
        }
        failed += 1;
        sleep(pause(failed)).await;
    }
    Ok(())
}

impl Bank {
    /// Moves money from one account to an account in the other database, with a row in each that says so. If there is a database
    /// for fees, one cent goes there. Returns whether it was committed, or as an error why nothing certain is known.
    async fn transfer(&self, id: u64) -> Result<bool> {
        let (payer, payee) = (fastrand::u64(..self.accounts), fastrand::u64(..self.accounts));
        let cents = if fastrand::u64(..TOO_MUCH_IN) == 0 { 1_000_000_000 } else { fastrand::i64(1..100) };
        let mut txn = self.coordinator.begin_async().await;
        let (paying, paid) = (self.from.branch(&mut txn), self.to.branch(&mut txn));
        // The databases work at the same time.
        let (fee, collecting) = match &self.fees {
            Some(fees) => (1, Some(fees.collect(&mut txn, id, 1))),
            None => (0, None),
        };
        let collected = async { if let Some(collecting) = collecting { collecting.await } else { Ok(true) } };
        let books = tokio::join!(book(paying, id, payer, -cents), book(paid, id, payee, cents - fee), collected);
        match books {
            (Ok(true), Ok(true), Ok(true)) => {}
            (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => {
                txn.rollback();
                return Err(error);
            }
            _ => {
                txn.rollback();
                return Ok(false);
            }
        }
        match txn.commit().await {
            Ok(()) => Ok(true),
            Err(CommitError::RolledBack { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Works under a branch. Returns whether the database accepts the work.
async fn book(
    branch: impl Future<Output = std::result::Result<PgBranch, XaWorkError>>,
    id: u64,
    account: u64,
    cents: i64,
) -> Result<bool> {
    let statements = format!(
        "UPDATE account SET cents = cents + {cents} WHERE id = {account}; INSERT INTO moved VALUES ({id}, {account}, {cents})"
    );
    match branch.await?.batch_execute(&statements).await {
        Ok(()) => Ok(true),
        Err(error) if error.as_db_error().is_some() => Ok(false),
        Err(error) => Err(error.into()),
    }
}
