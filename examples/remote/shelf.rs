//! The goods service: articles on shelves in several processes, found by a ring. When a process joins or leaves, articles move
//! to other processes while customers buy.
//!
//! A shelf is in memory. The book has its state of the last checkpoint, the log has the rest.

use std::{
    collections::{BTreeMap, HashMap},
    io,
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, HashRing, Service, ServiceError,
    ring::{KeyHasher, Position, PositionRange, Xxh3},
    sharding::{ByPosition, Export, GateImage, Keyed, Records, Shard},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::book::Book;

/// A piece of work: take pieces of an article for an order.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Pick {
    pub order: u64,
    pub article: u64,
    pub pieces: u64,
}

impl Keyed for Pick {
    fn position(&self) -> Position {
        // As `ByPosition` and the ring have it.
        Xxh3::default().hash_key(&self.article.to_le_bytes())
    }
}

/// What is kept of one article.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Article {
    pub left: u64,
    /// How many pieces each order has taken.
    pub taken: BTreeMap<u64, u64>,
}

/// Why a piece of work is refused.
#[derive(Debug, Error)]
pub enum Refusal {
    #[error("{free} left of article {article}, {wanted} wanted")]
    NotEnough { article: u64, free: u64, wanted: u64 },
}

pub struct Shelf {
    book: Book,
    state: Mutex<State>,
}

struct State {
    articles: ByPosition<u64, Article>,
    /// By branch of a transaction under way. Not in the book, because the resource manager restores it.
    set_aside: HashMap<BranchId, Vec<Pick>>,
}

/// What the book holds: the articles, and which ranges of the ring are this shelf's. Both are of one moment.
#[derive(Default, Serialize, Deserialize)]
struct Saved {
    image: GateImage,
    articles: ByPosition<u64, Article>,
}

impl Shelf {
    /// Opens the shelf. If there is no book yet, it gets those articles of the stock that the ring gives to this node.
    pub fn open(book: Book, stock: &BTreeMap<u64, u64>, ring: &HashRing, node: &str) -> io::Result<Self> {
        let saved = match book.read()? {
            Some(saved) => saved,
            None => {
                let mut first = Saved::default();
                for (article, left) in stock.iter().filter(|(article, _)| ring.owner(**article).id() == node) {
                    first.articles.insert(*article, Article { left: *left, taken: BTreeMap::new() });
                }
                book.write(&first)?;
                first
            }
        };
        Ok(Self { book, state: Mutex::new(State { articles: saved.articles, set_aside: HashMap::new() }) })
    }

    pub fn articles(&self) -> BTreeMap<u64, Article> {
        self.state.lock().articles.iter().map(|(article, there)| (*article, there.clone())).collect()
    }
}

impl Service for Shelf {
    type Work = Pick;
    type Refusal = Refusal;

    fn try_reserve(&self, branch: &BranchId, pick: &Pick) -> Result<(), Refusal> {
        let mut state = self.state.lock();
        let left = state.articles.get(&pick.article).map_or(0, |article| article.left);
        let set_aside = state.set_aside.values().flatten().filter(|other| other.article == pick.article);
        let free = left.saturating_sub(set_aside.map(|other| other.pieces).sum());
        if free < pick.pieces {
            return Err(Refusal::NotEnough { article: pick.article, free, wanted: pick.pieces });
        }
        state.set_aside.entry(branch.clone()).or_default().push(*pick);
        Ok(())
    }

    fn confirm(&self, branch: &BranchId, picks: &[Pick]) -> Result<(), ServiceError> {
        let mut state = self.state.lock();
        state.set_aside.remove(branch);
        for pick in picks {
            let article = state.articles.get_mut(&pick.article).ok_or("an article that was promised is gone")?;
            // An order takes once, however often its branch is confirmed.
            if !article.taken.contains_key(&pick.order) {
                article.left = article.left.checked_sub(pick.pieces).ok_or("more was promised than there is")?;
                article.taken.insert(pick.order, pick.pieces);
            }
        }
        Ok(())
    }

    fn cancel(&self, branch: &BranchId, _: &[Pick]) -> Result<(), ServiceError> {
        self.state.lock().set_aside.remove(branch);
        Ok(())
    }
}

/// What lets articles move.
impl Shard for Shelf {
    fn export(&self, range: PositionRange, into: &mut Export) -> Result<(), ServiceError> {
        self.state.lock().articles.export(range, into)
    }

    fn import(&self, range: PositionRange, records: Records<'_>) -> Result<(), ServiceError> {
        self.state.lock().articles.import(range, records)
    }

    fn discard(&self, range: PositionRange) -> Result<(), ServiceError> {
        self.state.lock().articles.discard(range);
        Ok(())
    }

    fn load(&self) -> Result<GateImage, ServiceError> {
        Ok(self.book.read::<Saved>()?.unwrap_or_default().image)
    }

    fn save(&self, image: &mut dyn FnMut() -> GateImage) -> Result<(), ServiceError> {
        // Under the lock that confirm takes, so that image and articles are of one moment.
        let saved = {
            let state = self.state.lock();
            Saved { image: image(), articles: state.articles.clone() }
        };
        Ok(self.book.write(&saved)?)
    }
}
