//! A private MariaDB server, or MySQL in its place: [`MariaDb`].

use std::{
    io::{self, Read as _, Write as _},
    net::TcpListener,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Places of the server beside those in `PATH`.
const SERVERS: [&str; 3] = ["/usr/sbin/mariadbd", "/usr/local/sbin/mariadbd", "/usr/libexec/mariadbd"];

/// The environment variable that names a `mysqld`. If it is set, the server is this one.
const MYSQLD: &str = "RINGPACT_MYSQLD";

/// Maximum duration of a start, with recovery, on a loaded machine.
const START_WITHIN: Duration = Duration::from_secs(60);

/// The size of the redo log: far below the default, so that a start is quick. (MySQL has it by another name.)
const LOG_SIZE: &str = "--loose-innodb-log-file-size=8M";

/// What MySQL must be told beside: no second protocol, on a port that all servers would share, and no directory for files of
/// its users, which a package makes elsewhere.
const MYSQL_OPTIONS: [&str; 2] = ["--mysqlx=OFF", "--secure-file-priv=NULL"];

/// Makes the user that MariaDB has from the start, for connections through a port.
const USERS: &str = "CREATE USER root@'127.0.0.1'; GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;";

/// Runs the server, and kills it when its own standard input ends. That is so at the latest when
/// the test's process is gone, in whatever way. Then the directory is removed, unless a line came.
const KEEPER: &str = r#"dir=$1; shift; "$@" & server=$!
if read -r line; then kill -9 $server; wait $server; exit 0; fi
kill -9 $server; wait $server; rm -rf "$dir""#;

/// A MariaDB server on a Unix socket and a free port of the loopback interface. It writes to disk as
/// a server in production does. User `root` has no password. Dropped, it is killed, and its
/// directory is removed.
///
/// If the environment variable `RINGPACT_MYSQLD` names the program of a MySQL server, the server is that one, and
/// [`is_mysql`] says so.
#[derive(Debug)]
pub struct MariaDb {
    dir: TempDir,
    port: u16,
    server: PathBuf,
    options: Vec<String>,
    /// The shell that watches the server; `None` while it is killed.
    keeper: Option<Child>,
}

impl MariaDb {
    /// Starts a server with these options beside its own; `None` if MariaDB is not installed.
    ///
    /// # Panics
    ///
    /// If it is installed and does not start.
    pub fn start(options: &[&str]) -> Option<Self> {
        let server = mysqld()
            .or_else(|| SERVERS.iter().map(PathBuf::from).find(|path| path.exists()))
            .or_else(|| in_path("mariadbd"))?;
        let (install, arguments) = if is_mysql() {
            (server.clone(), ["--no-defaults", "--initialize-insecure", "--secure-file-priv=NULL"].as_slice())
        } else {
            let arguments = ["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"].as_slice();
            (in_path("mariadb-install-db")?, arguments)
        };
        let dir = TempDir::with_prefix("ringpact-mariadb-").expect("a directory");
        // A server that starts removes the temporary tables that it finds, also those of other servers.
        std::fs::create_dir(dir.path().join("tmp")).expect("a directory for temporary tables");
        let users = dir.path().join("users");
        std::fs::write(&users, USERS).expect("a file of statements");
        let installed = Command::new(&install)
            .args(arguments)
            .arg(format!("--datadir={}", dir.path().join("data").display()))
            .arg(format!("--tmpdir={}", dir.path().join("tmp").display()))
            .arg(format!("--user={}", user()))
            .args([LOG_SIZE, "--innodb-buffer-pool-size=16M"])
            .args(is_mysql().then(|| format!("--init-file={}", users.display())))
            .output()
            .unwrap_or_else(|error| panic!("{} does not run: {error}", install.display()));
        let said = |output: &[u8]| String::from_utf8_lossy(output).into_owned();
        let success = installed.status.success();
        assert!(success, "{}\n{}", said(&installed.stdout), said(&installed.stderr));
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut started = Self { dir, port, server, options, keeper: None };
        started.restart();
        Some(started)
    }

    /// Returns the path of the Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// Returns the port on 127.0.0.1.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Kills the server, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            if let Some(mut input) = keeper.stdin.take() {
                input.write_all(b"keep\n").expect("the keeper listens");
            }
            keeper.wait().expect("the keeper ends");
        }
    }

    /// Kills the server if it runs, and starts it on what it has left.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn restart(&mut self) {
        self.kill();
        let dir = self.dir.path();
        let log = std::fs::File::create(dir.join("log")).expect("a log file");
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(dir)
            .arg(&self.server)
            .arg("--no-defaults")
            .arg(format!("--datadir={}", dir.join("data").display()))
            .arg(format!("--tmpdir={}", dir.join("tmp").display()))
            .arg(format!("--socket={}", self.socket().display()))
            .arg(format!("--port={}", self.port))
            .arg(format!("--user={}", user()))
            .arg(format!("--pid-file={}", dir.join("pid").display()))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--max-connections=400"])
            .args(["--innodb-flush-log-at-trx-commit=1", "--log-bin=log", "--sync-binlog=1", "--server-id=1"])
            .args(["--innodb-buffer-pool-size=32M", LOG_SIZE, "--performance-schema=OFF"])
            .args(is_mysql().then_some(MYSQL_OPTIONS).into_iter().flatten())
            .args(&self.options)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("the log file again"))
            .stderr(log)
            .spawn()
            .expect("sh runs");
        self.keeper = Some(keeper);
        let deadline = Instant::now() + START_WITHIN;
        while let Err(error) = greeted(&self.socket()) {
            let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{} has not started: {error}\n{}", self.server.display(), log());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The server is killed by its keeper, whose input ends. Waits for that, so that the directory is not
/// in use when it is removed.
impl Drop for MariaDb {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether the servers are MySQL.
pub fn is_mysql() -> bool {
    mysqld().is_some()
}

fn mysqld() -> Option<PathBuf> {
    std::env::var_os(MYSQLD).map(PathBuf::from)
}

/// Connects, and waits for the server's greeting.
fn greeted(socket: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.read_exact(&mut [0; 5])
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.exists())
}

/// Returns the user that runs this; the server refuses to run as root unless it is told so.
fn user() -> String {
    let output = Command::new("id").arg("-un").output().expect("id runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
