//! Redis: a cluster of four nodes that gets a fifth, whose slots `redis-cli --cluster reshard` moves. It
//! moves each slot by itself, and has no transaction over two nodes: a client here changes two records
//! one after the other, and nothing undoes the first if the second fails.
//!
//! Each node syncs its log before it answers (`appendfsync always`), as ringpact does. The servers are
//! Debian's packages `redis-server` and `redis-tools`; without them the case is left out.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    Figures, Options,
    clients::{pass, percentile},
    shop::NODES,
};
use crate::log::{failed, fresh_dir};

/// Number of slots of a cluster.
const SLOTS: usize = 16_384;

/// Number of keys that `redis-cli` moves in one message: its default, and far more.
const PIPELINES: [(&str, u32); 2] = [("redis", 10), ("redis-pipeline-100", 100)];

/// Time for which a cluster may take to agree.
const AGREE_WITHIN: Duration = Duration::from_secs(30);

/// Measures a reshard in each round, and then prints what one that is killed leaves behind.
pub fn reshard(options: &Options, figures: &mut Figures) -> io::Result<()> {
    if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("there is no redis-server; `apt install redis-server redis-tools` brings it");
        return Ok(());
    }
    for _ in 0..options.rounds().min(3) {
        for (name, pipeline) in PIPELINES {
            let cluster = Cluster::start(options)?;
            let (begun, bytes) = (Instant::now(), cluster.bytes_to_join());
            cluster.reshard(pipeline)?.wait()?;
            let seconds = begun.elapsed().as_secs_f64();
            figures.add("move_mb_per_s", 0, name, "MB/s", bytes / 1e6 / seconds);
        }
        let (name, pipeline) = PIPELINES[1];
        let cluster = Cluster::start(options)?;
        let load = Load::default();
        let windows = thread::scope(|scope| -> io::Result<_> {
            for _ in 0..options.clients {
                scope.spawn(|| load.run(&cluster));
            }
            let measure = || {
                pass(options.time() / 4);
                let before = pass(options.time());
                let begun = Instant::now();
                cluster.reshard(pipeline)?.wait()?;
                let during = (begun, Instant::now());
                Ok([before, during, pass(options.time())])
            };
            let windows = measure();
            load.stop.store(true, Ordering::Relaxed);
            windows
        })?;
        let found = windows.map(|(begun, ended)| {
            let samples = load.samples.lock();
            let inside = samples.iter().filter(|(at, _)| (begun..ended).contains(at));
            let mut times: Vec<f64> = inside.map(|(_, time)| *time).collect();
            (times.len() as f64 / (ended - begun).as_secs_f64(), percentile(&mut times, 0.99))
        });
        let mut add = |what, unit, value| figures.add(what, options.clients, name, unit, value);
        add("before_tx_per_s", "tx/s", found[0].0);
        add("during_tx_per_s", "tx/s", found[1].0);
        add("before_p99_us", "us", found[0].1);
        add("during_p99_us", "us", found[1].1);
        add("during_before", "ratio", found[1].0 / found[0].0);
        add("p99_during_before", "ratio", found[1].1 / found[0].1);
        add("join_seconds", "s", (windows[1].1 - windows[1].0).as_secs_f64());
        add("failed_tx", "tx", load.failed.load(Ordering::Relaxed) as f64);
    }
    kills(options, figures)
}

/// Kills a reshard and a node in the middle, and prints what is needed to repair that.
fn kills(options: &Options, figures: &mut Figures) -> io::Result<()> {
    for (what, victim) in [("redis-cli", None), ("node-1", Some(0)), ("node-5", Some(NODES))] {
        let mut cluster = Cluster::start(options)?;
        let whole = cluster.reshard(10)?;
        thread::sleep(Duration::from_millis(if options.quick { 150 } else { 1_500 }));
        let mut whole = whole;
        match victim {
            None => whole.kill()?,
            Some(index) => cluster.kill(index)?,
        }
        let _ = whole.wait();
        if let Some(index) = victim {
            cluster.restart(index)?;
        }
        let state = |cluster: &Cluster| cluster.cli(&["--cluster", "check", &cluster.address(1)]);
        let text = state(&cluster)?;
        eprintln!("after the kill of {what}:\n{}", complaints(&text));
        let (begun, mut repairs) = (Instant::now(), 0);
        while !is_sound(&state(&cluster)?) && repairs < 5 {
            repairs += 1;
            let fixed = cluster.cli(&["--cluster", "fix", &cluster.address(1), "--cluster-yes"])?;
            eprintln!("fix {repairs}:\n{}", complaints(&fixed));
        }
        let text = state(&cluster)?;
        eprintln!("in the end ({}):\n{}", if is_sound(&text) { "sound" } else { "not sound" }, complaints(&text));
        // The rest of the slots has to be moved by another call, whose number of slots is the operator's to find.
        let moved = cluster.slots_of(NODES);
        eprintln!("node-5 has {moved} of {} slots; the rest takes another reshard", SLOTS / (NODES + 1));
        let what: &'static str = Box::leak(format!("repairs_after_kill_of_{what}").into_boxed_str());
        figures.add(what, 0, "redis", "calls", f64::from(repairs) + f64::from(moved < SLOTS / (NODES + 1)));
        eprintln!("repaired in {:.1} s", begun.elapsed().as_secs_f64());
        let lost = cluster.count()?;
        eprintln!("{lost} keys of {}", options.stock().keys * 2);
    }
    Ok(())
}

fn is_sound(check: &str) -> bool {
    !check.contains("[ERR]") && !check.contains("[WARNING]")
}

/// The lines of a check that say that something is wrong, or what was done about it.
fn complaints(text: &str) -> String {
    let lines =
        text.lines().filter(|line| ["[ERR]", "[WARNING]", "[OK]", "fix", "Fix"].iter().any(|word| line.contains(word)));
    lines.take(12).map(|line| format!("  {line}\n")).collect()
}

struct Cluster {
    nodes: Vec<Mutex<Child>>,
    ports: Vec<u16>,
    dir: tempfile::TempDir,
    keys: u64,
    record_bytes: usize,
}

impl Cluster {
    /// Starts four nodes that share all slots and have all records, and a fifth without slots.
    fn start(options: &Options) -> io::Result<Self> {
        let (dir, stock) = (fresh_dir()?, options.stock());
        let mut cluster =
            Self { nodes: Vec::new(), ports: Vec::new(), dir, keys: stock.keys, record_bytes: stock.record_bytes };
        for index in 0..=NODES {
            cluster.ports.push(free_port()?);
            let child = cluster.serve(index)?;
            cluster.nodes.push(Mutex::new(child));
        }
        (0..=NODES).try_for_each(|index| cluster.wait_for(index))?;
        let addresses: Vec<String> = (0..NODES).map(|index| cluster.address(index)).collect();
        let mut create = vec!["--cluster", "create"];
        create.extend(addresses.iter().map(String::as_str));
        create.extend(["--cluster-replicas", "0", "--cluster-yes"]);
        cluster.cli(&create)?;
        cluster.agree(NODES)?;
        cluster.cli(&["--cluster", "add-node", &cluster.address(NODES), &cluster.address(0)])?;
        cluster.agree(NODES + 1)?;
        cluster.fill()?;
        Ok(cluster)
    }

    fn serve(&self, index: usize) -> io::Result<Child> {
        let dir: PathBuf = self.dir.path().join(format!("node-{}", index + 1));
        fs::create_dir_all(&dir)?;
        let port = self.ports[index].to_string();
        let settings = [
            ["--port", &port],
            ["--cluster-enabled", "yes"],
            ["--cluster-node-timeout", "5000"],
            ["--appendonly", "yes"],
            ["--appendfsync", "always"],
            ["--save", ""],
            ["--auto-aof-rewrite-percentage", "0"],
            ["--bind", "127.0.0.1"],
        ];
        let mut command = Command::new("redis-server");
        command.args(settings.as_flattened()).current_dir(&dir).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn()
    }

    fn address(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.ports[index])
    }

    fn cli(&self, arguments: &[&str]) -> io::Result<String> {
        let output = Command::new("redis-cli").args(arguments).stdin(Stdio::null()).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    }

    fn ask(&self, index: usize, question: &[&str]) -> io::Result<String> {
        let port = self.ports[index].to_string();
        self.cli(&[&["-p", &port], question].concat())
    }

    fn wait_for(&self, index: usize) -> io::Result<()> {
        let until = Instant::now() + AGREE_WITHIN;
        while !self.ask(index, &["ping"])?.contains("PONG") {
            if Instant::now() > until {
                return Err(failed("a redis server does not start"));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Waits until all nodes know of this number of nodes, and serve.
    fn agree(&self, count: usize) -> io::Result<()> {
        let until = Instant::now() + AGREE_WITHIN;
        let knows = format!("cluster_known_nodes:{count}\r");
        loop {
            let all = (0..count).map(|index| self.ask(index, &["cluster", "info"])).collect::<io::Result<Vec<_>>>()?;
            if all.iter().all(|info| info.contains("cluster_state:ok") && info.contains(&knows)) {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(failed(format!("the redis cluster does not agree: {}", all[0])));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Starts to move as many slots to the fifth node as a fifth of all.
    fn reshard(&self, pipeline: u32) -> io::Result<Child> {
        let to = self.ask(NODES, &["cluster", "myid"])?.trim().to_owned();
        let (slots, pipeline) = ((SLOTS / (NODES + 1)).to_string(), pipeline.to_string());
        let mut command = Command::new("redis-cli");
        command.args(["--cluster", "reshard", &self.address(0), "--cluster-from", "all", "--cluster-to", &to]);
        command.args(["--cluster-slots", &slots, "--cluster-yes", "--cluster-pipeline", &pipeline]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    }

    /// About the bytes of a fifth of the records, counted as ringpact's are.
    fn bytes_to_join(&self) -> f64 {
        2.0 * self.keys as f64 / (NODES + 1) as f64 * (self.record_bytes + 20) as f64
    }

    fn kill(&self, index: usize) -> io::Result<()> {
        let mut child = self.nodes[index].lock();
        child.kill()?;
        child.wait().map(drop)
    }

    fn restart(&mut self, index: usize) -> io::Result<()> {
        *self.nodes[index].lock() = self.serve(index)?;
        self.wait_for(index)?;
        thread::sleep(Duration::from_secs(2));
        Ok(())
    }

    fn slots_of(&self, index: usize) -> usize {
        let nodes = self.ask(1, &["cluster", "nodes"]).unwrap_or_default();
        let own = format!("{}@", self.address(index));
        let Some(line) = nodes.lines().find(|line| line.contains(&own)) else { return 0 };
        line.split(' ').skip(8).map(|slots| range(slots).map_or(0, |(first, last)| last - first + 1)).sum()
    }

    /// Returns how many keys all nodes have together.
    fn count(&self) -> io::Result<u64> {
        (0..=NODES).map(|index| Ok(self.ask(index, &["dbsize"])?.trim().parse::<u64>().unwrap_or(0))).sum()
    }

    fn fill(&self) -> io::Result<()> {
        let mut client = Client::connect(self)?;
        let value = vec![b'7'; self.record_bytes];
        let mut waiting: BTreeMap<u16, usize> = BTreeMap::new();
        for key in 0..self.keys {
            for service in ["goods", "accounts"] {
                let name = format!("{service}:{key}");
                let port = client.slots[slot(&name)];
                client.link(port)?.get_mut().write_all(&command(&[b"SET", name.as_bytes(), &value]))?;
                *waiting.entry(port).or_default() += 1;
            }
            if key % 64 == 63 || key + 1 == self.keys {
                for (port, count) in std::mem::take(&mut waiting) {
                    for _ in 0..count {
                        answer(client.link(port)?)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in &self.nodes {
            let mut child = child.lock();
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Returns a port that is free, and whose bus port is valid.
fn free_port() -> io::Result<u16> {
    loop {
        let port = fastrand::u16(20_000..30_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return Ok(port);
        }
    }
}

fn range(slots: &str) -> Option<(usize, usize)> {
    let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// A client that follows redirections.
struct Client {
    slots: Vec<u16>,
    links: BTreeMap<u16, BufReader<TcpStream>>,
}

impl Client {
    fn connect(cluster: &Cluster) -> io::Result<Self> {
        let mut slots = vec![cluster.ports[0]; SLOTS];
        for line in cluster.ask(0, &["cluster", "nodes"])?.lines() {
            let port = line.split([':', '@']).nth(1).and_then(|port| port.parse().ok());
            for (first, last) in line.split(' ').skip(8).filter_map(range) {
                slots[first..=last].fill(port.ok_or_else(|| failed("a node without a port"))?);
            }
        }
        Ok(Self { slots, links: BTreeMap::new() })
    }

    fn link(&mut self, port: u16) -> io::Result<&mut BufReader<TcpStream>> {
        if !self.links.contains_key(&port) {
            let stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_nodelay(true)?;
            self.links.insert(port, BufReader::new(stream));
        }
        Ok(self.links.get_mut(&port).expect("it was inserted"))
    }

    /// Changes the first bytes of the record.
    fn change(&mut self, name: &str) -> io::Result<()> {
        let change = command(&[b"SETRANGE", name.as_bytes(), b"0", b"12345678"]);
        let (mut port, mut is_asking) = (self.slots[slot(name)], false);
        for _ in 0..10_000 {
            let link = self.link(port)?;
            if is_asking {
                link.get_mut().write_all(&command(&[b"ASKING"]))?;
                answer(link)?;
            }
            link.get_mut().write_all(&change)?;
            let said = answer(link)?;
            let to = said.rsplit(':').next().and_then(|port| port.parse().ok());
            match (said.split(' ').next(), to) {
                (Some("-MOVED"), Some(to)) => {
                    self.slots[slot(name)] = to;
                    (port, is_asking) = (to, false);
                }
                (Some("-ASK"), Some(to)) => (port, is_asking) = (to, true),
                (Some("-TRYAGAIN" | "-CLUSTERDOWN"), _) => thread::sleep(Duration::from_millis(1)),
                _ if said.starts_with('-') => return Err(failed(said)),
                _ => return Ok(()),
            }
        }
        Err(failed("redirected without an end"))
    }
}

#[derive(Default)]
struct Load {
    samples: Mutex<Vec<(Instant, f64)>>,
    failed: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    fn run(&self, cluster: &Cluster) {
        let Ok(mut client) = Client::connect(cluster) else { return };
        let mut own = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let names = ["goods", "accounts"].map(|service| format!("{service}:{}", fastrand::u64(..cluster.keys)));
            match names.iter().try_for_each(|name| client.change(name)) {
                Ok(()) => own.push((Instant::now(), begun.elapsed().as_secs_f64() * 1e6)),
                Err(_) => _ = self.failed.fetch_add(1, Ordering::Relaxed),
            }
        }
        self.samples.lock().append(&mut own);
    }
}

fn command(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        bytes.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        bytes.extend_from_slice(part);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Reads one answer, of one line or one string.
fn answer(link: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if link.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if let Some(length) = line.strip_prefix('$').and_then(|length| length.trim().parse::<usize>().ok()) {
        let mut bytes = vec![0; length + 2];
        link.read_exact(&mut bytes)?;
    }
    Ok(line.trim_end().to_owned())
}

/// Returns the slot of a name, which has no braces: its CRC16 (XModem).
fn slot(name: &str) -> usize {
    let crc = name.bytes().fold(0_u16, |crc, byte| {
        (0..8)
            .fold(crc ^ (u16::from(byte) << 8), |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 })
    });
    usize::from(crc) % SLOTS
}
