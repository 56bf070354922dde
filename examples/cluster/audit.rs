//! The audit: each key is in one place, each acknowledged order is in both services once, and nothing
//! else has changed.

use std::collections::BTreeMap;

use ringpact::ring::RangeSet;

use crate::{
    Shop,
    customers::Customers,
    node::{SERVICES, World},
    shelf::{Record, Take, position},
};

/// What the audit found.
pub struct Audit {
    pub faults: Vec<String>,
}

impl Audit {
    pub fn of(shop: &Shop, customers: &Customers, world: &World, is_settled: bool) -> Self {
        let mut faults = customers.faults.lock().clone();
        if !is_settled {
            faults.push(format!("not settled: {}", shop.cluster.coordinator().status()));
        }
        let ring = shop.cluster.assignment().load().ring().clone();
        let mut orders: [BTreeMap<u64, (u64, u64)>; 2] = Default::default();
        for (service, name) in SERVICES.iter().enumerate() {
            let records = records(shop, service, &mut faults);
            for (key, first) in &world.first[service] {
                let Some((node, record)) = records.get(key) else {
                    faults.push(format!("{name} {key} is gone"));
                    continue;
                };
                if ring.owner_at(position(*key)).id().as_str() != node {
                    faults.push(format!("{name} {key} is at {node}, which is not its owner"));
                }
                let taken: u64 = record.orders.values().sum();
                if record.left + taken != *first {
                    faults.push(format!("{name} {key}: {} left and {taken} taken of {first}", record.left));
                }
                for (order, amount) in &record.orders {
                    if orders[service].insert(*order, (*key, *amount)).is_some() {
                        faults.push(format!("order {order} is twice in {name}"));
                    }
                }
            }
            if records.len() != world.first[service].len() {
                faults.push(format!("{name} has {} keys instead of {}", records.len(), world.first[service].len()));
            }
        }
        for order in orders[0].keys().chain(orders[1].keys()) {
            if !orders[0].contains_key(order) || !orders[1].contains_key(order) {
                faults.push(format!("order {order} is torn"));
            }
        }
        for (order, takes) in customers.acknowledged() {
            let has = |service: usize, take: &Take| orders[service].get(&order) == Some(&(take.key, take.amount));
            if !has(0, &takes.0) || !has(1, &takes.1) {
                faults.push(format!("order {order} was acknowledged and is lost"));
            }
        }
        Self { faults }
    }
}

/// Returns the node and record of each key of a service, of those records that clients can see.
fn records(shop: &Shop, service: usize, faults: &mut Vec<String>) -> BTreeMap<u64, (String, Record)> {
    let (mut found, mut owned) = (BTreeMap::new(), RangeSet::new());
    for node in shop.nodes.read().iter() {
        let seen = node.shard(service).with(|host| (host.owned(), host.shard().all()));
        let Some((ranges, records)) = seen else {
            faults.push(format!("{} is down", node.name()));
            continue;
        };
        for range in ranges.iter() {
            if owned.overlaps(range) {
                faults.push(format!("{} owns positions that another node owns, too", node.name()));
            }
            owned.insert(range);
        }
        for (key, record) in records {
            if !ranges.contains(position(key)) {
                faults.push(format!("{} still has {} {key}", node.name(), SERVICES[service]));
            } else if found.insert(key, (node.name().to_owned(), record)).is_some() {
                faults.push(format!("{} {key} is at two nodes", SERVICES[service]));
            }
        }
    }
    if !owned.is_full() {
        faults.push(format!("positions of {} have no owner", SERVICES[service]));
    }
    found
}
