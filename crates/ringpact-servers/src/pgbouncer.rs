//! A private pgbouncer in front of a [`Postgres`] server.

use std::{
    fs, io,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::postgres::{Postgres, USER, is_root};

/// Maximum duration of a start, on a loaded machine.
const START_WITHIN: Duration = Duration::from_secs(20);

/// A proxy that pools transactions: two transactions of one connection may be in two sessions of the server. It runs for as
/// long as this value lives.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    process: Child,
    _dir: TempDir,
}

impl PgBouncer {
    /// Starts a proxy with this number of sessions for each database. Returns `None`, and says why, if pgbouncer is not
    /// installed.
    ///
    /// # Panics
    ///
    /// If it is installed and does not start.
    #[must_use]
    pub fn start(server: &Postgres, sessions: usize) -> Option<Self> {
        let program = PathBuf::from("/usr/sbin/pgbouncer");
        if !program.exists() {
            crate::missing("pgbouncer", "there is no /usr/sbin/pgbouncer; install the package pgbouncer");
            return None;
        }
        Some(
            Self::create(&program, server, sessions)
                .unwrap_or_else(|error| panic!("pgbouncer does not start: {error}")),
        )
    }

    fn create(program: &PathBuf, server: &Postgres, sessions: usize) -> io::Result<Self> {
        let dir = TempDir::with_prefix("ringpact-pgbouncer-")?;
        // It runs as another user if this process is root.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let (settings, users) = (dir.path().join("pgbouncer.ini"), dir.path().join("users.txt"));
        fs::write(&users, format!("\"{USER}\" \"\"\n"))?;
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = {sessions}\n\
             ignore_startup_parameters = extra_float_digits\n",
            server.port(),
            users.display()
        );
        fs::write(&settings, text)?;
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", USER, "--regid", USER, "--clear-groups"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        let output = fs::File::create(dir.path().join("output"))?;
        let process = command.arg(&settings).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn()?;
        let started = Self { port, process, _dir: dir };
        let deadline = Instant::now() + START_WITHIN;
        while let Err(error) = TcpStream::connect(("127.0.0.1", port)) {
            if Instant::now() > deadline {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(started)
    }

    /// Returns the port that it listens at.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns the configuration of connections to a database through the proxy, as text.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("host=127.0.0.1 port={} user={USER} dbname={database}", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
