//! The participants' processes: started, killed, and started again in the same place.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::{Failure, participant::Ready};

/// How a participant is started.
pub struct Recipe {
    pub name: &'static str,
    pub stock: u64,
    /// Where the coordinator is asked for verdicts.
    pub coordinator: SocketAddr,
    pub directory: PathBuf,
}

/// A participant's process. It is killed with this value.
pub struct Process {
    recipe: Recipe,
    pub ready: Ready,
    child: Child,
}

impl Process {
    /// Starts it for the first time, and waits until it listens.
    pub fn start(recipe: Recipe) -> Result<Self, Failure> {
        std::fs::create_dir_all(&recipe.directory)?;
        let (ready, child) = recipe.start(0)?;
        Ok(Self { recipe, ready, child })
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ready.port).into()
    }

    /// As `kill -9` does it: nothing that is in its memory is written down any more.
    pub fn kill(&mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it where it was: the same port, the same log.
    pub fn restart(&mut self) -> Result<(), Failure> {
        (self.ready, self.child) = self.recipe.start(self.ready.port)?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.kill();
    }
}

impl Recipe {
    fn start(&self, port: u16) -> Result<(Ready, Child), Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("participant")
            .arg(self.name)
            .arg("--directory")
            .arg(&self.directory)
            .args(["--port", &port.to_string(), "--coordinator", &self.coordinator.to_string()])
            .args(["--stock", &self.stock.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let read = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
        match read.map(|_| serde_json::from_str(&line)) {
            Some(Ok(ready)) => Ok((ready, child)),
            _ => {
                // It has said why, on its standard error.
                child.kill()?;
                child.wait()?;
                Err(format!("participant {} did not start", self.name).into())
            }
        }
    }
}
