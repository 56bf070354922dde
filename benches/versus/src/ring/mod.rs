//! Rings: every peer does the same work, and the nanoseconds stand side by side.

mod measure;
mod peer;
mod peers;

use std::error::Error;

use clap::Args;

use crate::report::Report;
use measure::{Course, Pace};
use peers::{
    anchorhash::Anchor, bare_hash::BareHash, bare_hash_and_line::BareHashAndLine, consistent_choose_k::ChooseK,
    consistent_hash_ring::ConsistentHashRing, fliphash::Flip, hash_rings::HashRings, hashring::Hashring,
    hashring_coordinator::Coordinated, hrw_hash::Rendezvous, jump_back_hash::JumpBack, jumphash::Jump,
    maglev::MaglevTable, maglev_hash::MaglevHash, mpchash::MultiProbe, pingora_ketama::Ketama, ringlet_hash::Ringlet,
    ringpact::Ringpact,
};

/// How to measure.
#[derive(Args)]
pub struct Options {
    /// A smoke test: two short rounds at the small sizes. The figures mean nothing.
    #[arg(long)]
    quick: bool,

    /// Numbers of nodes.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1_000, 10_000])]
    nodes: Vec<usize>,

    /// Number of rounds, of which the median counts.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rounds: u64,

    /// Only what has this in its name, for instance `lookup`.
    #[arg(long)]
    only: Option<String>,
}

/// Measures, prints the table, writes the CSV.
pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let (rounds, pace) = if options.quick { (2, Pace::Quick) } else { (options.rounds as usize, Pace::Full) };
    let mut report = Report::new(&[<BareHash as peer::Peer>::NAME, <BareHashAndLine as peer::Peer>::NAME]);
    for nodes in options.nodes.iter().copied().filter(|nodes| !options.quick || *nodes <= 100) {
        eprintln!("{nodes} nodes ...");
        let mut course = Course::new(nodes, pace, options.only.as_deref());
        course.enter::<BareHash>(&mut report);
        course.enter::<BareHashAndLine>(&mut report);
        course.enter::<Ringpact<false>>(&mut report);
        course.enter::<Ringpact<true>>(&mut report);
        course.enter::<Ketama<false>>(&mut report);
        course.enter::<Ketama<true>>(&mut report);
        course.enter::<Hashring>(&mut report);
        course.enter::<ConsistentHashRing>(&mut report);
        course.enter::<HashRings>(&mut report);
        course.enter::<Anchor>(&mut report);
        course.enter::<MaglevTable>(&mut report);
        course.enter::<MaglevHash>(&mut report);
        course.enter::<Jump>(&mut report);
        course.enter::<JumpBack>(&mut report);
        course.enter::<Flip>(&mut report);
        course.enter::<ChooseK>(&mut report);
        course.enter::<MultiProbe>(&mut report);
        course.enter::<Rendezvous>(&mut report);
        course.enter::<Ringlet>(&mut report);
        course.enter::<Coordinated>(&mut report);
        report.hold(course.into_contests(), rounds);
    }
    report.skip(
        "ringpact is built with its feature `large-pages`, which makes rings of thousands of nodes faster.".into(),
    );
    report.skip(
        "replicas3 and replicas3_zones of ringpact are looked up in a ReplicaIndex that is made beforehand, and takes 16 bytes a \
         token besides the ring's (not in bytes_per_token). `cargo bench -p ringpact-benches --bench ring` has the figures \
         of walking, without an index."
            .into(),
    );
    println!("{}", report.markdown());
    let path = report.write_csv("ring")?;
    eprintln!("{}", path.display());
    Ok(())
}
