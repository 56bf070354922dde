//! What must hold at the end, whenever a service was killed and whatever has moved.

use std::collections::BTreeMap;

use crate::{
    account::State,
    orders::{PRICE, Settled, Stock, pieces},
    shelf::Article,
};

/// Returns one line for each thing that does not hold. `shelves` has the articles of each goods process.
pub fn faults(
    settled: &[Settled],
    shelves: &BTreeMap<String, BTreeMap<u64, Article>>,
    payments: &State,
    stock: &Stock,
) -> Vec<String> {
    let mut faults = Vec::new();
    let (mut goods, mut taken_of_goods) = (BTreeMap::new(), BTreeMap::new());
    for (node, articles) in shelves {
        for (article, there) in articles {
            if let Some(other) = goods.insert(*article, node) {
                faults.push(format!("article {article} is at {other} and at {node}"));
            }
            let (was, is) = (stock.articles[article], there.left + there.taken.values().sum::<u64>());
            if is != was {
                faults.push(format!("article {article}: there was {was}, and there is {is}"));
            }
            taken_of_goods.extend(there.taken.clone());
        }
    }
    for article in stock.articles.keys().filter(|article| !goods.contains_key(article)) {
        faults.push(format!("article {article} is at no goods process"));
    }
    let cents = payments.left + payments.taken.values().sum::<u64>();
    if cents != stock.cents {
        faults.push(format!("payments: there was {}, and there is {cents}", stock.cents));
    }
    let known = settled.len() as u64;
    if taken_of_goods.keys().chain(payments.taken.keys()).any(|order| *order >= known) {
        faults.push("an order that was never placed".to_owned());
    }
    for (order, settled) in (0..).zip(settled) {
        let wanted = match settled {
            Settled::Committed => [Some(pieces(order)), Some(pieces(order) * PRICE)],
            Settled::Refused => [None, None],
        };
        let taken = [taken_of_goods.get(&order).copied(), payments.taken.get(&order).copied()];
        if taken != wanted {
            faults.push(format!("order {order} is {settled:?} and has {taken:?} of goods and payments"));
        }
    }
    faults
}
