//! Keys go where nginx sends them. The answers in `tests/golden/nginx.txt` are those of nginx
//! itself.

use crate::support::golden_file::{Case, cases};
use ringpact::ring::{NginxRing, Node, RingError};

fn ring(case: &Case) -> NginxRing {
    let nodes = case.servers.iter().map(|words| Node::new(words[0].as_str()).with_weight(words[1].parse().unwrap()));
    NginxRing::new(nodes).unwrap()
}

#[test]
fn every_key_goes_where_nginx_sends_it() {
    let cases = cases(include_str!("../golden/nginx.txt"));
    assert!(cases.len() > 30);
    for case in &cases {
        let ring = ring(case);
        let is_down = |node: &Node| {
            let place = ring.nodes().iter().position(|other| other == node).unwrap();
            case.servers[place].get(2).is_some_and(|word| word == "down")
        };
        for (key, owner) in &case.owners {
            let chosen = ring.replicas(key).find(|node| !is_down(node)).unwrap();
            assert_eq!(chosen, &ring.nodes()[*owner], "case {}, key {key}", case.name);
            if !is_down(ring.owner(key)) {
                assert_eq!(ring.owner(key), chosen);
            }
        }
    }
}

#[test]
fn a_joining_server_only_takes() {
    let before = NginxRing::new(["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]).unwrap();
    let after = NginxRing::new(["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"]).unwrap();
    for key in 0..2_000_u32 {
        assert!(before.owner(key) == after.owner(key) || after.owner(key).id() == "10.0.0.4:80");
    }
}

#[test]
fn bad_members_are_refused() {
    assert_eq!(NginxRing::new([""; 0]).unwrap_err(), RingError::NoNodes);
    assert_eq!(NginxRing::new(["a", "b", "a"]).unwrap_err(), RingError::DuplicateNode { id: "a".into() });
    let huge = Node::new("a").with_weight(u32::MAX);
    assert!(matches!(NginxRing::new([huge]).unwrap_err(), RingError::TooManyTokens { .. }));
}
