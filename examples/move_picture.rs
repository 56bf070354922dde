//! A move as a picture: a node joins three others, and after each few chunks a line shows which node has
//! which part of the circle.
//!
//! ```sh
//! cargo run --release --example move_picture -- --output move.svg
//! ```

use std::{
    error::Error,
    fmt::Write as _,
    fs,
    path::PathBuf,
    sync::{Arc, mpsc},
    time::Duration,
};

use clap::Parser;
use parking_lot::Mutex;
use ringpact::{
    BranchId, HashRing, MemoryLog, Service, ServiceError,
    ring::{NodeId, Position, PositionRange},
    sharding::{
        Assignment, ByPosition, Cluster, Connection, Export, GateImage, Keyed, Pace, Records, Shard, ShardHost, Side,
        position_of,
    },
};
use serde::{Deserialize, Serialize};

/// The nodes, and the colours of their parts.
const NODES: [(&str, &str); 4] =
    [("node-1", "#4e79a7"), ("node-2", "#f28e2b"), ("node-3", "#76b7b2"), ("node-4", "#b23a48")];

/// Number of lines of the picture.
const LINES: usize = 6;

const WIDTH: f64 = 640.0;
const LEFT: f64 = 90.0;
const LINE: f64 = 34.0;

#[derive(Parser)]
#[command(about = "Draws how the data of three nodes moves to a fourth, as an SVG")]
struct Arguments {
    /// Path of the picture to write.
    #[arg(long, default_value = "move.svg")]
    output: PathBuf,
}

/// Sets the value of a key.
#[derive(Clone, Serialize, Deserialize)]
struct Set {
    key: u64,
    value: u64,
}

impl Keyed for Set {
    fn position(&self) -> Position {
        position_of(&self.key)
    }
}

#[derive(Default)]
struct Values(Mutex<(ByPosition<u64, u64>, GateImage)>);

impl Service for Values {
    type Work = Set;
    type Refusal = std::convert::Infallible;
    fn try_reserve(&self, _: &BranchId, _: &Set) -> Result<(), Self::Refusal> {
        Ok(())
    }
    fn confirm(&self, _: &BranchId, sets: &[Set]) -> Result<(), ServiceError> {
        for set in sets {
            self.0.lock().0.insert(set.key, set.value);
        }
        Ok(())
    }
    fn cancel(&self, _: &BranchId, _: &[Set]) -> Result<(), ServiceError> {
        Ok(())
    }
}

impl Shard for Values {
    fn export(&self, range: PositionRange, into: &mut Export) -> Result<(), ServiceError> {
        self.0.lock().0.export(range, into)
    }
    fn import(&self, range: PositionRange, records: Records<'_>) -> Result<(), ServiceError> {
        self.0.lock().0.import(range, records)
    }
    fn discard(&self, range: PositionRange) -> Result<(), ServiceError> {
        self.0.lock().0.discard(range);
        Ok(())
    }
    fn load(&self) -> Result<GateImage, ServiceError> {
        Ok(self.0.lock().1.clone())
    }
    fn save(&self, image: &mut dyn FnMut() -> GateImage) -> Result<(), ServiceError> {
        let mut state = self.0.lock();
        state.1 = image();
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let moments = moments()?;
    // The first and the last, and some in between.
    let shown: Vec<_> = (0..LINES).map(|line| &moments[line * (moments.len() - 1) / (LINES - 1)]).collect();
    fs::write(&arguments.output, draw(&shown))?;
    println!("{} chunks moved. The picture is in {}.", moments.len() - 2, arguments.output.display());
    Ok(())
}

/// Returns the assignment after each step of the change.
fn moments() -> Result<Vec<Assignment>, Box<dyn Error>> {
    let log = Arc::new(MemoryLog::new());
    let shards = Arc::clone(&log);
    let ring = HashRing::builder().virtual_nodes(3).nodes(NODES.iter().take(3).map(|(name, _)| *name)).build()?;
    let (builder, values) = Cluster::builder(log).first_ring(ring).service("values", move |node: &NodeId| {
        let host = ShardHost::open(&format!("values.{node}"), Arc::clone(&shards), Values::default())?;
        Ok(Connection::local(Arc::new(host)))
    });
    let cluster = builder.open()?;
    for key in 0..400 {
        let mut txn = cluster.begin();
        values.execute(&mut txn, Set { key, value: key })?;
        txn.commit().wait()?;
    }
    let assignment = Arc::clone(cluster.assignment());
    let plan = cluster.change()?.join(NODES[3].0).plan()?;
    let mut moments = vec![Assignment::clone(&assignment.load())];
    let (stop, stopped) = mpsc::channel::<()>();
    let watched = Arc::clone(&assignment);
    let watcher = std::thread::spawn(move || {
        let mut seen = Vec::new();
        while stopped.try_recv().is_err() {
            let now = Assignment::clone(&watched.load());
            if now.after().is_some() && seen.last().is_none_or(|last: &Assignment| last.epoch() < now.epoch()) {
                seen.push(now);
            }
        }
        seen
    });
    // Small chunks, and so slowly that none is missed.
    let pace = Pace::new().chunk_bytes(200).bytes_per_second(4_000).into_each(1);
    let moving = plan.start(pace)?;
    let is_over = moving.wait(Duration::from_secs(60));
    stop.send(())?;
    moments.extend(watcher.join().map_err(|_| "the watcher panicked")?);
    moments.push(Assignment::clone(&assignment.load()));
    if is_over { Ok(moments) } else { Err("the change has not ended in time".into()) }
}

fn draw(moments: &[&Assignment]) -> String {
    let height = LINE * (moments.len() as f64 + 1.0) + 20.0;
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {height}" font-family="sans-serif" font-size="12" role="img">"#,
        LEFT + WIDTH + 10.0
    );
    svg.push_str("<title>Which node has which part of the circle while node-4 joins</title>");
    for (line, moment) in moments.iter().enumerate() {
        let top = LINE * line as f64 + 10.0;
        let left: f64 = moment.moving(Side::Before).iter().map(|(range, ..)| range.fraction()).sum();
        let done: f64 = moment.moving(Side::After).iter().map(|(range, ..)| range.fraction()).sum();
        let label = match (line, moment.after()) {
            (0, _) => "before".to_owned(),
            (_, Some(_)) => format!("{:.0} % moved", 100.0 * done / (done + left)),
            (_, None) => "after".to_owned(),
        };
        let _ = write!(svg, r##"<text x="0" y="{}" fill="#888">{label}</text>"##, top + 15.0);
        for (start, end, node) in parts(moment) {
            let (x, width) = (LEFT + WIDTH * start, WIDTH * (end - start));
            let _ =
                write!(svg, r#"<rect x="{x:.1}" y="{top}" width="{width:.1}" height="22" fill="{}"/>"#, NODES[node].1);
        }
    }
    for (number, (name, colour)) in NODES.iter().enumerate() {
        let (x, y) = (LEFT + 110.0 * number as f64, LINE * moments.len() as f64 + 14.0);
        let _ = write!(
            svg,
            r##"<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/><text x="{}" y="{}" fill="#888">{name}</text>"##,
            x + 17.0,
            y + 10.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Returns the parts of the circle that one node has, each as shares of the circle and a node's number.
fn parts(moment: &Assignment) -> Vec<(f64, f64, usize)> {
    const STEPS: u64 = 2_000;
    let mut parts: Vec<(f64, f64, usize)> = Vec::new();
    for step in 0..STEPS {
        let position = Position::new((u64::MAX / STEPS) * step);
        let node = moment.place(position).node;
        let number = NODES.iter().position(|(name, _)| node.as_str() == *name).expect("one of four nodes");
        let (start, end) = (step as f64 / STEPS as f64, (step + 1) as f64 / STEPS as f64);
        match parts.last_mut() {
            Some((_, last, before)) if *before == number => *last = end,
            _ => parts.push((start, end, number)),
        }
    }
    parts
}
