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

#[test]
fn mutants() {
    for mutant in simulation::mutants::Mutant::ALL {
        let begun = std::time::Instant::now();
        let mut found = None;
        for seed in 0..400 {
            let report = simulation::run(seed, Some(mutant), false);
            if !report.wrong.is_empty() {
                found = Some(report);
                break;
            }
        }
        let what = found.as_ref().map(|report| report.wrong[0].chars().take(200).collect::<String>());
        println!("{mutant:?}: {:?} {:?} {}", found.map(|r| r.seed), begun.elapsed(), what.unwrap_or_default());
    }
}
