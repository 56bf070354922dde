//! Customers: each buys one article after the other, and looks at another one in between.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::Scope,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ringpact::sharding::GateRefusal;

use crate::{
    Failure, Shop,
    shelf::{Take, position},
};

/// Time for which a customer looks for an article that is on its way.
const LOOK_FOR: Duration = Duration::from_secs(5);

/// All customers, and what they have been told.
pub struct Customers {
    keys: u64,
    stop: AtomicBool,
    told: Mutex<Told>,
    next_order: AtomicU64,
    failed: AtomicU64,
    /// What a customer saw that must not be.
    pub faults: Mutex<Vec<String>>,
}

struct Told {
    /// Where acknowledged orders are noted, so that a run that goes on knows them.
    file: File,
    acknowledged: BTreeMap<u64, (Take, Take)>,
    times: Vec<Duration>,
}

/// What happened in some time.
pub struct Window {
    begun: Instant,
    pub time: Duration,
    pub orders: u64,
    pub refused: u64,
    pub failed: u64,
    times: Vec<Duration>,
}

impl Window {
    pub fn rate(&self) -> f64 {
        self.orders as f64 / self.time.as_secs_f64().max(1e-9)
    }

    pub fn percentile(&self, part: f64) -> Duration {
        let index = (self.times.len() as f64 * part) as usize;
        self.times.get(index).or(self.times.last()).copied().unwrap_or_default()
    }
}

impl Customers {
    /// Reads which orders earlier runs have acknowledged.
    pub fn open(directory: &Path, keys: u64) -> Result<Self, Failure> {
        let path = directory.join("acknowledged");
        let file = OpenOptions::new().create(true).append(true).read(true).open(&path)?;
        let mut acknowledged = BTreeMap::new();
        for line in BufReader::new(File::open(&path)?).lines() {
            let numbers: Vec<u64> = line?.split(' ').filter_map(|word| word.parse().ok()).collect();
            // The last line may be cut off.
            let [order, article, pieces, account, cents] = numbers[..] else { continue };
            let takes = (Take { order, key: article, amount: pieces }, Take { order, key: account, amount: cents });
            acknowledged.insert(order, takes);
        }
        // Orders that were not acknowledged may exist, too. So each run's numbers begin somewhere else.
        let next = fastrand::u64(..1 << 62);
        Ok(Self {
            keys,
            stop: AtomicBool::new(false),
            told: Mutex::new(Told { file, acknowledged, times: Vec::new() }),
            next_order: AtomicU64::new(next),
            failed: AtomicU64::new(0),
            faults: Mutex::default(),
        })
    }

    pub fn start<'s>(&'s self, scope: &'s Scope<'s, '_>, shop: &'s Shop, count: u64) {
        for _ in 0..count {
            scope.spawn(move || {
                while !self.stop.load(Ordering::Relaxed) {
                    self.buy(shop);
                    self.look(shop);
                }
            });
        }
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn acknowledged(&self) -> BTreeMap<u64, (Take, Take)> {
        self.told.lock().acknowledged.clone()
    }

    fn buy(&self, shop: &Shop) {
        let order = self.next_order.fetch_add(1, Ordering::Relaxed);
        let key = || fastrand::u64(..self.keys);
        let pieces = fastrand::u64(1..=3);
        let (goods, cents) =
            (Take { order, key: key(), amount: pieces }, Take { order, key: key(), amount: pieces * 100 });
        let begun = Instant::now();
        let mut txn = shop.cluster.begin();
        let worked =
            shop.goods.execute(&mut txn, goods.clone()).and_then(|()| shop.accounts.execute(&mut txn, cents.clone()));
        // A transaction that is dropped is rolled back.
        let committed = worked.is_ok() && txn.commit().wait().is_ok();
        if !committed {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let time = begun.elapsed();
        let mut told = self.told.lock();
        let line = format!("{order} {} {} {} {}\n", goods.key, goods.amount, cents.key, cents.amount);
        if told.file.write_all(line.as_bytes()).is_ok() {
            told.acknowledged.insert(order, (goods, cents));
            told.times.push(time);
        }
    }

    /// Looks at one article. It must be there, wherever it is.
    fn look(&self, shop: &Shop) {
        let key = fastrand::u64(..self.keys);
        let until = Instant::now() + LOOK_FOR;
        loop {
            let Ok((node, known)) = shop.goods.locate(position(key)) else { return };
            let node = shop.nodes.read().iter().find(|other| other.name() == node.as_str()).cloned();
            let Some(node) = node else { continue };
            let patience = Duration::from_millis(20);
            let found = node.shard(0).with(|host| host.read(position(key), known, patience, |shelf| shelf.record(key)));
            match found {
                Some(Ok(Some(_))) => return,
                Some(Ok(None)) => {
                    return self.faults.lock().push(format!("article {key} was said to be absent at {}", node.name()));
                }
                // The node is down, or the article has gone on.
                None | Some(Err(GateRefusal::NotOwner { .. } | GateRefusal::NotYet | GateRefusal::Moving)) => {
                    if Instant::now() > until {
                        return self.faults.lock().push(format!("article {key} was out of reach for {LOOK_FOR:?}"));
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                Some(Err(error)) => return self.faults.lock().push(error.to_string()),
            }
        }
    }

    /// Returns an empty window that begins now.
    pub fn window(&self) -> Window {
        self.told.lock().times.clear();
        Window {
            begun: Instant::now(),
            time: Duration::ZERO,
            orders: 0,
            refused: 0,
            failed: self.failed.load(Ordering::Relaxed),
            times: Vec::new(),
        }
    }

    /// Returns what has happened since the window began.
    pub fn since(&self, window: Window) -> Window {
        let mut times = std::mem::take(&mut self.told.lock().times);
        times.sort_unstable();
        Window {
            time: window.begun.elapsed(),
            orders: times.len() as u64,
            failed: self.failed.load(Ordering::Relaxed) - window.failed,
            times,
            ..window
        }
    }
}
