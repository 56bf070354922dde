//! Rounds, medians, the Markdown table and the CSV: what every comparison needs.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

/// Does one piece of work once with one implementation, and returns the figure.
pub struct Contender {
    pub implementation: &'static str,
    pub run: Box<dyn FnMut() -> f64>,
}

/// A piece of work, and all implementations that do it.
pub struct Contest {
    pub what: &'static str,
    pub nodes: usize,
    pub unit: &'static str,
    pub contenders: Vec<Contender>,
}

/// A figure: the median of several rounds.
struct Figure {
    what: &'static str,
    /// Number of nodes or clients.
    nodes: usize,
    more_is_better: bool,
    implementation: &'static str,
    unit: &'static str,
    median: f64,
    /// The range of the middle half of the rounds, as a share of the median.
    spread: f64,
}

/// All figures of one run, in the order in which they were measured.
pub struct Report {
    figures: Vec<Figure>,
    /// What is not in the table, and why.
    skipped: BTreeSet<String>,
    /// Implementations that are bounds, and take no part in the contest.
    yardsticks: &'static [&'static str],
    /// What the sizes count: `nodes` or `clients`.
    size: &'static str,
}

impl Report {
    /// Returns a report in which `yardsticks` are printed, but never called the best.
    pub fn new(yardsticks: &'static [&'static str]) -> Self {
        Self { yardsticks, figures: Vec::new(), skipped: BTreeSet::new(), size: "nodes" }
    }

    /// Returns the same, by numbers of clients.
    pub fn by_clients(yardsticks: &'static [&'static str]) -> Self {
        Self { size: "clients", ..Self::new(yardsticks) }
    }

    /// Takes in the figures of several rounds. `more_is_better` says which figure of a row is the
    /// best.
    pub fn add(
        &mut self,
        (what, size, implementation): (&'static str, usize, &'static str),
        unit: &'static str,
        more_is_better: bool,
        samples: Vec<f64>,
    ) {
        let contest = Contest { what, nodes: size, unit, contenders: Vec::new() };
        self.figures.push(Figure { more_is_better, ..Figure::new(&contest, implementation, samples) });
    }

    /// Runs the contests. In each round every contender runs once, and in each round another one
    /// begins, so that a slow spell of the machine hits all alike.
    pub fn hold(&mut self, mut contests: Vec<Contest>, rounds: usize) {
        let mut samples: Vec<Vec<Vec<f64>>> =
            contests.iter().map(|contest| vec![Vec::new(); contest.contenders.len()]).collect();
        for round in 0..rounds {
            for (contest, samples) in contests.iter_mut().zip(&mut samples) {
                let count = contest.contenders.len();
                for turn in 0..count {
                    let chosen = (turn + round) % count;
                    samples[chosen].push((contest.contenders[chosen].run)());
                }
            }
        }
        for (contest, samples) in contests.iter().zip(samples) {
            for (contender, samples) in contest.contenders.iter().zip(samples) {
                self.figures.push(Figure::new(contest, contender.implementation, samples));
            }
        }
    }

    /// Adds a note below the table: what was left out, or what else to know. Equal notes are
    /// printed once.
    pub fn skip(&mut self, reason: String) {
        self.skipped.insert(reason);
    }

    /// One row for each piece of work and size, one column for each implementation, the best in
    /// bold.
    pub fn markdown(&self) -> String {
        let mut columns: Vec<&str> = Vec::new();
        for figure in &self.figures {
            if !columns.contains(&figure.implementation) {
                columns.push(figure.implementation);
            }
        }
        let mut rows: Vec<(&str, usize)> = Vec::new();
        for figure in &self.figures {
            if !rows.contains(&(figure.what, figure.nodes)) {
                rows.push((figure.what, figure.nodes));
            }
        }
        // By work, then by size; the work in the order in which it was first measured.
        let order: Vec<&str> = rows.iter().map(|(what, _)| *what).collect();
        rows.sort_by_key(|(what, nodes)| (order.iter().position(|other| other == what), *nodes));

        let mut text = format!("| what | {} | unit | {} |\n", self.size, columns.join(" | "));
        let _ = writeln!(text, "|---|---|---|{}", "---|".repeat(columns.len()));
        for (what, nodes) in rows {
            let figures: Vec<_> = self.figures.iter().filter(|f| (f.what, f.nodes) == (what, nodes)).collect();
            let best = figures
                .iter()
                .filter(|figure| !self.yardsticks.contains(&figure.implementation))
                .map(|figure| figure.median)
                .reduce(if figures[0].more_is_better { f64::max } else { f64::min })
                .unwrap_or(f64::NAN);
            let _ = write!(text, "| {what} | {nodes} | {} |", figures[0].unit);
            for column in &columns {
                let cell = figures.iter().find(|figure| figure.implementation == *column);
                let _ = match cell {
                    None => write!(text, " |"),
                    Some(figure) if figure.median == best => write!(text, " **{}** |", number(figure.median)),
                    Some(figure) => write!(text, " {} |", number(figure.median)),
                };
            }
            text.push('\n');
        }
        let mut spreads: Vec<f64> = self.figures.iter().map(|figure| figure.spread).collect();
        spreads.sort_by(f64::total_cmp);
        if let Some(worst) = spreads.last() {
            let _ = writeln!(
                text,
                "\nThe middle half of a figure's rounds lies within {:.0} % of it (the median of all figures; {:.0} % for \
                 the worst).",
                100.0 * spreads[spreads.len() / 2],
                100.0 * worst,
            );
        }
        for reason in &self.skipped {
            let _ = writeln!(text, "- {reason}");
        }
        text
    }

    /// Writes `what,<nodes or clients>,implementation,value,unit` to `target/versus/<name>.csv` of
    /// the repository.
    ///
    /// # Errors
    ///
    /// Errors of the file system.
    pub fn write_csv(&self, name: &str) -> io::Result<PathBuf> {
        let mut text = format!("what,{},implementation,value,unit\n", self.size);
        for Figure { what, nodes, implementation, median, unit, .. } in &self.figures {
            let _ = writeln!(text, "{what},{nodes},{implementation},{median:.4},{unit}");
        }
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/versus");
        fs::create_dir_all(&directory)?;
        let path = directory.canonicalize()?.join(name).with_extension("csv");
        fs::write(&path, text)?;
        Ok(path)
    }
}

impl Figure {
    fn new(contest: &Contest, implementation: &'static str, mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| samples[((samples.len() - 1) as f64 * share).round() as usize];
        let median = at(0.5);
        Self {
            what: contest.what,
            nodes: contest.nodes,
            more_is_better: false,
            implementation,
            unit: contest.unit,
            median,
            spread: (at(0.75) - at(0.25)) / median.max(f64::MIN_POSITIVE),
        }
    }
}

/// Formats a number with three digits, or with all digits before the point.
fn number(value: f64) -> String {
    match value {
        value if value >= 99.95 => {
            let digits = format!("{value:.0}");
            let (head, tail) = digits.split_at((digits.len() - 1) % 3 + 1);
            tail.as_bytes().chunks(3).fold(head.to_owned(), |mut text, group| {
                text.push(',');
                text.extend(group.iter().map(|digit| char::from(*digit)));
                text
            })
        }
        value if value >= 9.995 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
