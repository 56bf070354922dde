//! What logs do when something goes wrong: one sync that fails under eight concurrent commits, a
//! flipped bit in record 500 of 1,000 acknowledged ones, a zeroed page there. Each case runs in
//! processes of its own, on the real file system.

mod child;
mod peers;

use std::{
    env,
    error::Error,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use clap::Args;

pub use child::run_if_child;
use peers::{PEERS, Peer, mark};

/// Number of records that are acknowledged before the damage, and the record that is damaged.
const RECORDS: u64 = 1_000;
const DAMAGED: u64 = 500;

/// Time after which a process counts as hung.
const PATIENCE: Duration = Duration::from_secs(30);

const PAGE: usize = 4096;

/// A library that makes one sync of a process fail.
const FAILING_SYNC: &str = include_str!("../../../../tests/log/support/failing_sync.c");

/// What to try.
#[derive(Debug, Args)]
pub struct Options {
    /// Only these logs; all if none is named.
    #[arg(long = "only")]
    only: Vec<String>,
    /// Where the logs are written; the system's place for temporary files by default.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Tries every case, and prints the table.
pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let base = options.dir.clone().unwrap_or_else(env::temp_dir);
    let tools = tempfile::tempdir_in(&base)?;
    let library = compile(tools.path())?;
    println!("| | one failed sync | a flipped bit in record {DAMAGED} | a zeroed 4 KiB page |");
    println!("|---|---|---|---|");
    for peer in PEERS.iter().filter(|peer| options.only.is_empty() || options.only.iter().any(|it| it == peer.name)) {
        let sync = failed_sync(peer, tempfile::tempdir_in(&base)?.path(), library.as_deref())?;
        let bit = damage(peer, tempfile::tempdir_in(&base)?.path(), |bytes, at| bytes[at + 10] ^= 1)?;
        let page = damage(peer, tempfile::tempdir_in(&base)?.path(), |bytes, at| {
            let (begin, end) = (at / PAGE * PAGE, (at / PAGE * PAGE + PAGE).min(bytes.len()));
            bytes[begin..end].fill(0);
        })?;
        println!("| {} | {sync} | {bit} | {page} |", peer.name);
    }
    Ok(())
}

/// Builds the library; `None` if there is no C compiler, or no `LD_PRELOAD` on this system.
fn compile(dir: &Path) -> Result<Option<PathBuf>, Box<dyn Error>> {
    let (source, library) = (dir.join("failing_sync.c"), dir.join("failing_sync.so"));
    fs::write(&source, FAILING_SYNC)?;
    if !cfg!(target_os = "linux") {
        return Ok(None);
    }
    match Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl").status() {
        Ok(status) if status.success() => Ok(Some(library)),
        Ok(status) => Err(format!("cc: {status}").into()),
        Err(error) => {
            eprintln!("no failed sync: there is no C compiler (cc: {error})");
            Ok(None)
        }
    }
}

/// The lines of a child process, and whether it had to be stopped.
struct Said {
    lines: Vec<String>,
    hung: bool,
    crashed: bool,
}

fn child(peer: &Peer, step: &str, dir: &Path, library: Option<&Path>) -> Result<Said, Box<dyn Error>> {
    let mut command = Command::new(env::current_exe()?);
    command.env(child::STEP, step).env(child::PEER, peer.name).env(child::DIR, dir);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    if let Some(library) = library {
        command.env("LD_PRELOAD", library);
    }
    let mut child = command.spawn()?;
    let (sender, lines) = mpsc::channel();
    let out = child.stdout.take().ok_or("a child without output")?;
    let reader =
        thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).try_for_each(|it| sender.send(it)));
    let deadline = Instant::now() + PATIENCE;
    let mut said = Said { lines: Vec::new(), hung: false, crashed: false };
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => said.lines.push(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                said.hung = true;
                child.kill()?;
                break;
            }
        }
    }
    said.crashed = !child.wait()?.success() && !said.hung;
    drop(reader);
    Ok(said)
}

fn failed_sync(peer: &Peer, dir: &Path, library: Option<&Path>) -> Result<String, Box<dyn Error>> {
    let Some(library) = library else { return Ok("not tried".to_owned()) };
    let said = child(peer, "sync", dir, Some(library))?;
    if let Some(refused) = said.lines.iter().find(|line| line.starts_with("refused")) {
        return Err(format!("{}: {refused}", peer.name).into());
    }
    if dir.join("armed").exists() || dir.join("slow").exists() {
        return Ok(if said.crashed { "crashes".to_owned() } else { "no sync failed".to_owned() });
    }
    // The first commit's sync was slow, and the next sync failed. So none of the seven others has
    // had a good sync since, and a second try would prove nothing.
    let of = |what: &str, numbers: std::ops::RangeInclusive<u64>| {
        let is = |line: &&String| {
            let mut words = line.split(' ');
            words.next() == Some(what)
                && words.next().and_then(|it| it.parse().ok()).is_some_and(|it| numbers.contains(&it))
        };
        said.lines.iter().filter(is).count()
    };
    let (durable, failed) = (of("durable", 2..=8), of("failed", 2..=8));
    let first = if of("failed", 1..=1) > 0 { "the first fails too, " } else { "" };
    let then = match (of("durable", 9..=9), of("failed", 9..=9)) {
        (1, _) => "the next commit succeeds",
        (_, 1) => "the next commit fails",
        _ if said.crashed => "the process crashes",
        _ => "the next commit hangs",
    };
    let hang =
        if said.hung && durable + failed < 7 { format!(", {} hang", 7 - durable - failed) } else { String::new() };
    Ok(format!("{first}{durable} of 7 told \"durable\", {failed} an error{hang}; {then}"))
}

/// Fills a log, damages each place where the record stands, and reads the log again.
fn damage(peer: &Peer, dir: &Path, apply: impl Fn(&mut [u8], usize)) -> Result<String, Box<dyn Error>> {
    let filled = child(peer, "fill", dir, None)?;
    if filled.lines != ["filled"] {
        return Err(format!("{} can't be filled: {:?}", peer.name, filled.lines).into());
    }
    let mut places = 0;
    for path in files(dir)? {
        let mut bytes = fs::read(&path)?;
        let mark = mark(DAMAGED);
        let found: Vec<usize> =
            bytes.windows(mark.len()).enumerate().filter(|(_, it)| *it == mark).map(|it| it.0).collect();
        // The content repeats the mark; the first one of each run is where a copy of the record
        // begins.
        let copies = found.iter().filter(|at| !found.contains(&at.wrapping_sub(mark.len())));
        let copies: Vec<usize> = copies.copied().collect();
        if !copies.is_empty() {
            copies.iter().for_each(|at| apply(&mut bytes, *at));
            places += copies.len();
            fs::write(&path, bytes)?;
        }
    }
    if places == 0 {
        return Ok("record not found in any file".to_owned());
    }
    let said = child(peer, "read", dir, None)?;
    let line = said.lines.first().map_or("", String::as_str);
    let words: Vec<&str> = line.split(' ').collect();
    let copies = if places > 1 { format!(" ({places} copies)") } else { String::new() };
    let verdict = match words[..] {
        ["found", right, wrong] => {
            let (right, wrong): (u64, u64) = (right.parse()?, wrong.parse()?);
            match (RECORDS - right, wrong) {
                (0, 0) => "all there".to_owned(),
                (lost, 0) => format!("**silently loses {lost}**"),
                (lost, wrong) => format!("**silently loses {lost}, {wrong} of them wrong**"),
            }
        }
        ["refused", ..] => "refuses".to_owned(),
        _ if said.hung => "hangs".to_owned(),
        _ => "panics".to_owned(),
    };
    Ok(verdict + &copies)
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}
