//! A private PostgreSQL server.

use std::{
    fs, io,
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use tempfile::TempDir;

/// Where Debian keeps the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// The user that the server runs as when the caller is root, because it refuses root.
pub(crate) const USER: &str = "postgres";

/// Waits until the pipe from the process that started the server closes, however that process ends, and then stops the server
/// and removes its directory.
const GUARD: &str = r#"cat >/dev/null
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ]; then
    kill -QUIT "$pid" 2>/dev/null
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.05; done
fi
rm -rf "$1""#;

/// Options of a server.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether the server syncs what it writes.
    pub fsync: bool,
    /// The server's `max_prepared_transactions`.
    pub max_prepared_transactions: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { fsync: false, max_prepared_transactions: 64 }
    }
}

/// A server that runs for as long as this value lives, or until the process ends.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    dir: PathBuf,
    port: u16,
    options: Options,
    /// Its standard input is the pipe that the guard waits for.
    guard: Child,
}

impl Postgres {
    /// Starts a server. Returns `None`, and says why, if PostgreSQL is not installed.
    ///
    /// # Panics
    ///
    /// If the server does not start.
    #[must_use]
    pub fn start(options: Options) -> Option<Self> {
        let Some(programs) = programs() else {
            crate::missing(
                "PostgreSQL",
                &format!("there is no {VERSIONS}/*/bin/postgres; install the package postgresql"),
            );
            return None;
        };
        Some(Self::create(programs, options).unwrap_or_else(|error| panic!("PostgreSQL does not start: {error}")))
    }

    fn create(programs: PathBuf, options: Options) -> io::Result<Self> {
        let dir = TempDir::with_prefix("ringpact-postgres-")?;
        if is_root() {
            let (user, group) = user()?;
            chown(dir.path(), Some(user), Some(group))?;
        }
        let path = dir.keep();
        let guard = Command::new("sh")
            .args(["-c", GUARD, "sh"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let server = Self { programs, dir: path, port: free_port()?, options, guard };
        let data = server.data();
        server.run("initdb", &["-D", &data, "-U", USER, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"])?;
        server.start_again()?;
        Ok(server)
    }

    /// Returns the configuration of connections to a database, as text.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("host=127.0.0.1 port={} user={USER} dbname={database}", self.port)
    }

    /// Returns the port on the loopback interface.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns the id of the server's first process, the parent of all others. `None` while it is stopped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let file = fs::read_to_string(self.dir.join("data/postmaster.pid")).ok()?;
        file.lines().next()?.trim().parse().ok()
    }

    /// Returns the maximum number of prepared transactions.
    #[must_use]
    pub const fn prepares(&self) -> usize {
        self.options.max_prepared_transactions
    }

    /// Creates a database.
    ///
    /// # Errors
    ///
    /// As the server says.
    pub fn create_database(&self, name: &str) -> io::Result<()> {
        let port = self.port.to_string();
        self.run("createdb", &["-h", "127.0.0.1", "-p", &port, "-U", USER, name])
    }

    /// Stops the server as a crash would: it writes nothing more.
    ///
    /// # Errors
    ///
    /// As the server says.
    pub fn stop_immediately(&self) -> io::Result<()> {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"])
    }

    /// Starts the server again on what it has written.
    ///
    /// # Errors
    ///
    /// As the server says.
    pub fn start_again(&self) -> io::Result<()> {
        let fsync = if self.options.fsync { "on" } else { "off" };
        let settings = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200 -c fsync={fsync} \
             -c max_prepared_transactions={} -c log_min_messages=fatal -c deadlock_timeout=200ms",
            self.port, self.options.max_prepared_transactions
        );
        let log = self.dir.join("server.log");
        self.run("pg_ctl", &["-D", &self.data(), "-l", &log.to_string_lossy(), "-o", &settings, "-w", "start"])
    }

    /// Starts the server as a standby that follows no primary: it can only be read.
    ///
    /// # Errors
    ///
    /// As the server says.
    pub fn start_as_standby(&self) -> io::Result<()> {
        fs::write(self.dir.join("data/standby.signal"), "")?;
        self.start_again()
    }

    fn data(&self) -> String {
        self.dir.join("data").to_string_lossy().into_owned()
    }

    /// Runs one of the server's programs, as the server's user.
    fn run(&self, program: &str, arguments: &[&str]) -> io::Result<()> {
        let path = self.programs.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", USER, "--regid", USER, "--clear-groups"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        // The server must not hold pipes of this process open, so its output goes to a file.
        let output = self.dir.join(format!("{program}.out"));
        let file = fs::File::create(&output)?;
        let status = command
            .args(arguments)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()?;
        if status.success() {
            return Ok(());
        }
        let log = fs::read_to_string(self.dir.join("server.log")).unwrap_or_default();
        let said = fs::read_to_string(&output).unwrap_or_default();
        Err(io::Error::other(format!("{program} failed with {status}: {said}{log}")))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        drop(self.guard.wait());
    }
}

/// Returns the directory of the newest version's programs.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir(VERSIONS).ok()?.flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions
        .map(|entry| entry.path())
        .filter(|path| path.join("bin/postgres").exists())
        .max_by_key(|path| number(path))?;
    Some(newest.join("bin"))
}

pub(crate) fn is_root() -> bool {
    id(&["-u"]).is_ok_and(|user| user == 0)
}

/// Returns the ids of the server's user and of its group.
fn user() -> io::Result<(u32, u32)> {
    Ok((id(&["-u", USER])?, id(&["-g", USER])?))
}

fn id(arguments: &[&str]) -> io::Result<u32> {
    let Output { stdout, .. } = Command::new("id").args(arguments).output()?;
    String::from_utf8_lossy(&stdout).trim().parse().map_err(io::Error::other)
}

/// Returns a port that was free a moment ago.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
