//! Keys go where libmemcached sends them. The answers in `tests/golden/ketama.txt` are those of the
//! library itself.

use crate::support::golden_file::{Case, cases};
use ringpact::ring::{KetamaRing, Node, RingError};

fn servers(case: &Case) -> Vec<Node> {
    case.servers
        .iter()
        .map(|words| {
            let [host, port, weight] = &words[..] else { panic!("host, port and weight") };
            Node::new(format!("{host}:{port}")).with_weight(weight.parse().unwrap())
        })
        .collect()
}

fn ring(case: &Case) -> KetamaRing {
    match case.mode.as_str() {
        "weighted" => KetamaRing::weighted(servers(case)).unwrap(),
        "default" => KetamaRing::with_default_hash(servers(case)).unwrap(),
        _ => KetamaRing::unweighted(servers(case)).unwrap(),
    }
}

#[test]
fn every_key_goes_where_libmemcached_sends_it() {
    let cases = cases(include_str!("../golden/ketama.txt"));
    for (mode, fewest) in [("weighted", 70), ("unweighted", 10), ("default", 25)] {
        assert!(cases.iter().filter(|case| case.mode == mode).count() >= fewest, "{mode}");
    }
    for case in &cases {
        let ring = ring(case);
        for (key, owner) in &case.owners {
            assert_eq!(ring.owner(key), &ring.nodes()[*owner], "case {}, key {key}", case.name);
        }
    }
}

/// `MEMCACHED_BEHAVIOR_KETAMA` alone hashes keys with one-at-a-time, also with weights, although
/// MD5 then places the points.
#[test]
fn the_default_hash_is_not_md5() {
    let (even, heavy) = (["a", "b"].map(Node::new), [Node::new("a").with_weight(2), Node::new("b")]);
    let [plain, weighted] = [even, heavy.clone()].map(|nodes| KetamaRing::with_default_hash(nodes).unwrap());
    assert_eq!((plain.points().len(), weighted.points().len()), (200, 316));
    assert_eq!(plain.position("a"), 0xca2e_9442, "as Bob Jenkins published it");
    assert_eq!(weighted.position("a"), plain.position("a"));
    let md5 = KetamaRing::weighted(heavy).unwrap();
    assert!(weighted.points().eq(md5.points()));
    assert_ne!(md5.position("a"), plain.position("a"));
    // Bytes above 127 are negative: as an unsigned number, this one would hash to 0xc7b20f1d.
    assert_eq!(plain.position([0xff_u8]), 0xae65_a494);
}

#[test]
fn single_precision_decides_the_number_of_points() {
    let points = |servers: u32| KetamaRing::weighted((0..servers).map(|n| format!("s{n}"))).unwrap().points().len();
    assert_eq!(points(10), 1_600);
    // 1 / 25 * 160 / 4 * 25 is a little below 40 in an f32, so each server loses a digest. The
    // golden cases `equal-N` show that the library does the same.
    let short: Vec<_> = (1..=40).filter(|servers| points(*servers) as u32 != servers * 160).collect();
    assert_eq!(short, [25]);
    assert_eq!(points(25), 25 * 156);
}

#[test]
fn a_walk_starts_at_the_owner_and_meets_each_node_once() {
    for case in &cases(include_str!("../golden/ketama.txt")) {
        let ring = ring(case);
        for (key, _) in case.owners.iter().take(20) {
            let mut walk: Vec<_> = ring.replicas(key).map(Node::id).collect();
            assert_eq!(walk[0], ring.owner(key).id());
            walk.sort();
            walk.dedup();
            let with_points = ring.nodes().iter().filter(|node| ring.points().any(|(_, owner)| owner == *node));
            assert_eq!(walk.len(), with_points.count());
        }
    }
}

/// The hashes published with Couchbase's SDK RFC 26 are those of libmemcached's weighted mode, as
/// long as the port isn't 11211 (which Couchbase hashes too). The first and the last of its 640:
#[test]
fn couchbase_rfc_26_has_the_same_points() {
    let nodes = ["192.168.1.101", "192.168.1.102", "192.168.1.103", "192.168.1.104"].map(|ip| format!("{ip}:11210"));
    let ring = KetamaRing::weighted(nodes).unwrap();
    assert_eq!(ring.points().len(), 640);
    let points: Vec<_> =
        ring.points().map(|(point, node)| (point, &node.id().as_str()["192.168.1.".len()..][..3])).collect();
    assert_eq!(points[..COUCHBASE_FIRST.len()], COUCHBASE_FIRST);
    assert_eq!(points[640 - COUCHBASE_LAST.len()..], COUCHBASE_LAST);
}

const COUCHBASE_FIRST: [(u32, &str); 12] = [
    (19069626, "104"),
    (28439255, "101"),
    (36078660, "104"),
    (46162273, "104"),
    (54096687, "104"),
    (73548791, "102"),
    (78634244, "102"),
    (80168850, "104"),
    (89070946, "101"),
    (106146674, "101"),
    (107634595, "103"),
    (109207346, "104"),
];

const COUCHBASE_LAST: [(u32, &str); 12] = [
    (4166546806, "102"),
    (4195612479, "102"),
    (4196018177, "104"),
    (4240258066, "102"),
    (4248973251, "104"),
    (4261792465, "101"),
    (4264824551, "101"),
    (4275762582, "101"),
    (4280142414, "101"),
    (4280309254, "102"),
    (4281097143, "102"),
    (4294628205, "102"),
];

#[test]
fn the_default_port_may_be_left_off() {
    let (with, without) = (["a:11211", "b:11211"], ["a", "b"]);
    let (with, without) = (KetamaRing::weighted(with).unwrap(), KetamaRing::weighted(without).unwrap());
    assert!(with.points().map(|(point, _)| point).eq(without.points().map(|(point, _)| point)));
    assert_eq!(
        KetamaRing::weighted(["a", "a:11211"]).unwrap_err(),
        RingError::DuplicateNode { id: "a".into() },
        "they are one server"
    );
}

#[test]
fn bad_members_are_refused() {
    assert_eq!(KetamaRing::weighted([""; 0]).unwrap_err(), RingError::NoNodes);
    assert_eq!(KetamaRing::unweighted([""]).unwrap_err(), RingError::InvalidNodeId { length: 0 });
    let weightless = Node::new("a").with_weight(0);
    assert_eq!(KetamaRing::weighted([weightless]).unwrap_err(), RingError::ZeroWeight { id: "a".into() });
    let heavy = Node::new("a").with_weight(2);
    assert_eq!(KetamaRing::unweighted([heavy]).unwrap_err(), RingError::UnevenWeights { id: "a".into() });
}

#[test]
fn a_tiny_share_may_own_nothing() {
    let ring = KetamaRing::weighted([Node::new("a").with_weight(100_000), Node::new("b")]).unwrap();
    assert_eq!(ring.points().len(), 316);
    assert_eq!(ring.replicas("k").count(), 1);
}
