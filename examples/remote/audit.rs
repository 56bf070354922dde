//! What must hold at the end, whenever a service was killed.

use crate::{
    account::State,
    orders::{PRICE, Settled, pieces},
};

/// Returns one line for each thing that does not hold.
pub fn faults(settled: &[Settled], goods: &State, payments: &State, stock: [u64; 2]) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, state, stock) in [("goods", goods, stock[0]), ("payments", payments, stock[1])] {
        let there = state.left + state.taken.values().sum::<u64>();
        if there != stock {
            faults.push(format!("{name}: there was {stock}, and there is {there}"));
        }
        if state.taken.keys().next_back().is_some_and(|last| *last >= settled.len() as u64) {
            faults.push(format!("{name}: an order that was never placed"));
        }
    }
    for (order, settled) in (0..).zip(settled) {
        let wanted = match settled {
            Settled::Committed => [Some(pieces(order)), Some(pieces(order) * PRICE)],
            Settled::Refused => [None, None],
        };
        let taken = [goods, payments].map(|state| state.taken.get(&order).copied());
        if taken != wanted {
            faults.push(format!("order {order} is {settled:?} and has {taken:?} of goods and payments"));
        }
    }
    faults
}
