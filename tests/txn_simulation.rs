//! Whole runs of the production code in a simulated world; see `simulation/mod.rs`.

mod simulation;

#[test]
fn first_light() {
    let n = std::env::var("N").map_or(20, |n| n.parse().unwrap());
    let first = std::env::var("FIRST").map_or(0, |n| n.parse().unwrap());
    let mut bad = 0;
    for seed in first..first + n {
        let report = simulation::run(seed, None, std::env::var("SHOW").is_ok());
        if !report.wrong.is_empty() {
            println!("{report}");
            bad += 1;
        }
    }
    println!("{bad} bad");
}

#[test]
fn same() {
    for seed in 0..100 {
        let a = simulation::run(seed, None, false);
        let b = simulation::run(seed, None, false);
        assert_eq!(a.hash, b.hash, "{seed}");
    }
}
