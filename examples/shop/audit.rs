//! The invariants of the shop, checked by counting everything.

use std::collections::BTreeMap;

use crate::{
    goods::HoldStage,
    machine::{Failure, Machine},
    orders::{Order, Stage},
    purchases::{Day, OrderId, Sku},
};

/// What was counted, and what does not add up.
#[derive(Debug, Default)]
pub struct Audit {
    pub initial_stock: u64,
    pub free: u64,
    pub sold: u64,
    pub paid: u64,
    pub earned: u64,
    pub orders: BTreeMap<&'static str, u64>,
    pub settled: u64,
    pub in_doubt: usize,
    pub faults: Vec<String>,
}

impl Audit {
    pub fn of(machine: &Machine, day: &Day) -> Result<Self, Failure> {
        let mut audit = Self::default();
        let orders = audit.orders(machine, day);
        audit.goods(machine, day, &orders);
        audit.money(machine, day, &orders);
        let (coordinator, shards) = machine.status()?;
        audit.in_doubt = coordinator.in_doubt() + shards.active + shards.prepared + shards.settling;
        audit.check(audit.in_doubt == 0, || "some transactions are in doubt".to_owned());
        Ok(audit)
    }

    fn check(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(otherwise());
        }
    }

    /// Checks that every purchase has one order, at an end, with the content of the purchase.
    fn orders(&mut self, machine: &Machine, day: &Day) -> BTreeMap<OrderId, Order> {
        let mut orders = BTreeMap::new();
        machine.orders.for_each(|manager| {
            for (id, order) in manager.service().state() {
                let twice = orders.insert(id, order).is_some();
                self.check(!twice, || format!("{id} is at two shards"));
            }
        });
        self.check(orders.len() <= day.purchases.len(), || "there are orders without a purchase".to_owned());
        for purchase in &day.purchases {
            let Some(order) = orders.get(&purchase.order) else {
                self.faults.push(format!("{} is missing", purchase.order));
                continue;
            };
            let same = (order.customer, order.sku, order.pieces, order.cents)
                == (purchase.customer, purchase.sku, purchase.pieces, purchase.cents);
            self.check(same, || format!("{} is not what was bought", purchase.order));
            self.check(order.stage.is_end(), || format!("{} is half done: {:?}", purchase.order, order.stage));
            let name = match order.stage {
                Stage::Shipped => "shipped",
                Stage::Cancelled => "cancelled",
                Stage::Refused => "refused",
                Stage::Created | Stage::Paid => "half done",
            };
            *self.orders.entry(name).or_default() += 1;
            self.settled += u64::from(order.stage.is_end());
        }
        orders
    }

    /// Checks, title by title, that stock and sold pieces add up to the initial stock, and that
    /// sold is what the shipped orders say.
    fn goods(&mut self, machine: &Machine, day: &Day, orders: &BTreeMap<OrderId, Order>) {
        let mut shipped = BTreeMap::<Sku, u64>::new();
        for order in orders.values().filter(|order| order.stage == Stage::Shipped) {
            *shipped.entry(order.sku).or_default() += order.pieces;
        }
        let (mut free, mut sold) = (BTreeMap::<Sku, u64>::new(), BTreeMap::<Sku, u64>::new());
        machine.goods.for_each(|manager| {
            let state = manager.service().state();
            state.free.iter().for_each(|(sku, pieces)| *free.entry(*sku).or_default() += pieces);
            state.sold.iter().for_each(|(sku, pieces)| *sold.entry(*sku).or_default() += pieces);
            for (order, hold) in &state.orders {
                self.check(hold.stage != HoldStage::Held, || format!("goods are still held for {order}"));
            }
        });
        for (sku, initial) in &day.stock {
            let of = |pieces: &BTreeMap<Sku, u64>| pieces.get(sku).copied().unwrap_or(0);
            let (free, sold, shipped) = (of(&free), of(&sold), of(&shipped));
            self.check(free + sold == *initial, || {
                format!("title {}: stock {free} + sold {sold} is not the initial stock {initial}", sku.0)
            });
            self.check(sold == shipped, || format!("title {}: sold {sold}, but orders say {shipped}", sku.0));
            self.initial_stock += initial;
            self.free += free;
            self.sold += sold;
        }
    }

    /// Checks that customers paid what the shop earned: each shipped order once, and nothing else.
    fn money(&mut self, machine: &Machine, day: &Day, orders: &BTreeMap<OrderId, Order>) {
        let mut paid = BTreeMap::new();
        let mut left = 0;
        machine.payments.for_each(|manager| {
            let state = manager.service().state();
            left += state.balances.values().sum::<u64>();
            for (order, cents) in state.paid {
                let twice = paid.insert(order, cents).is_some();
                self.check(!twice, || format!("{order} was paid twice"));
            }
        });
        for (id, order) in orders {
            let owed = if order.stage == Stage::Shipped { order.cents } else { 0 };
            let cents = paid.get(id).copied().unwrap_or(0);
            self.check(cents == owed, || format!("{id} is {:?}: {cents} cents paid, {owed} owed", order.stage));
            self.earned += owed;
        }
        let counted: u64 = paid.values().sum();
        let (lost, earned) = (day.accounts.values().sum::<u64>().wrapping_sub(left), self.earned);
        self.check(lost == counted, || format!("accounts lost {lost} cents, {counted} were paid"));
        self.check(lost == earned, || format!("customers paid {lost} cents, the shop earned {earned}"));
        self.paid = lost;
    }
}
