//! The participants' processes: started, killed, and started again with the same port and log.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::{Failure, participant::Ready};

/// What it takes to start a participant.
pub struct Recipe {
    pub name: String,
    /// Number of orders, from which its first stock follows.
    pub orders: u64,
    /// The address at which the coordinator answers for verdicts.
    pub coordinator: SocketAddr,
    pub directory: PathBuf,
}

/// A participant's process. Dropping this value kills it.
pub struct Process {
    recipe: Recipe,
    pub ready: Ready,
    child: Child,
}

impl Process {
    /// Starts the process for the first time, and waits until it listens.
    pub fn start(recipe: Recipe) -> Result<Self, Failure> {
        std::fs::create_dir_all(&recipe.directory)?;
        let (ready, child) = recipe.start(0)?;
        Ok(Self { recipe, ready, child })
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ready.port).into()
    }

    /// Kills the process as `kill -9` does: nothing more of its memory is written.
    pub fn kill(&mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts the process again, with the same port and the same log.
    pub fn restart(&mut self) -> Result<(), Failure> {
        (self.ready, self.child) = self.recipe.start(self.ready.port)?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have been killed already.
        let _ = self.kill();
    }
}

impl Recipe {
    fn start(&self, port: u16) -> Result<(Ready, Child), Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("participant")
            .arg(&self.name)
            .arg("--directory")
            .arg(&self.directory)
            .args(["--port", &port.to_string(), "--coordinator", &self.coordinator.to_string()])
            .args(["--orders", &self.orders.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let read = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
        match read.map(|_| serde_json::from_str(&line)) {
            Some(Ok(ready)) => Ok((ready, child)),
            _ => {
                // The process has written the reason to standard error.
                child.kill()?;
                child.wait()?;
                Err(format!("participant {} did not start", self.name).into())
            }
        }
    }
}
