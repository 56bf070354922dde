//! Cuts connections to a server at a certain message: [`Cutter`].

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// Where a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The message does not reach the server.
    Before,
    /// The server has carried the message out, and its answer does not reach the client.
    After,
}

/// What a message has in it, and where its connection is cut.
type Armed = Arc<Mutex<Option<(Vec<u8>, Cut)>>>;

/// Stands between clients and a server on the loopback interface, until the process ends.
#[derive(Debug)]
pub struct Cutter {
    port: u16,
    armed: Armed,
}

impl Cutter {
    /// Begins to listen, for a server on this port.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn before(server: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let (port, armed) = (listener.local_addr()?.port(), Armed::default());
        let shared = Arc::clone(&armed);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let armed = Arc::clone(&shared);
                // A server that is down ends the client's connection.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", server)) {
                    drop(between(client, server, armed));
                }
            }
        });
        Ok(Self { port, armed })
    }

    /// Returns the port for clients.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Cuts the next connection of which a message has this text. One connection only.
    pub fn arm(&self, text: &str, cut: Cut) {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some((text.as_bytes().to_vec(), cut));
    }

    /// Whether no message had the text yet.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// Passes on what comes, on two threads.
fn between(client: TcpStream, server: TcpStream, armed: Armed) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let is_mute = Arc::new(AtomicBool::new(false));
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let (mut from_server, mut to_client, mute) = (server, client, Arc::clone(&is_mute));
    thread::spawn(move || {
        let mut buffer = [0; 1 << 16];
        while let Ok(length @ 1..) = from_client.read(&mut buffer) {
            let message = &buffer[..length];
            let cut = {
                let mut armed = armed.lock().unwrap_or_else(PoisonError::into_inner);
                let is_it = |(text, _): &mut (Vec<u8>, Cut)| message.windows(text.len()).any(|part| part == text);
                armed.take_if(is_it).map(|(_, cut)| cut)
            };
            match cut {
                Some(Cut::Before) => break,
                Some(Cut::After) => mute.store(true, Ordering::SeqCst),
                None => {}
            }
            if to_server.write_all(message).is_err() {
                break;
            }
        }
        let _both = (from_client.shutdown(Shutdown::Both), to_server.shutdown(Shutdown::Both));
    });
    thread::spawn(move || {
        let mut buffer = [0; 1 << 16];
        while let Ok(length @ 1..) = from_server.read(&mut buffer) {
            if is_mute.load(Ordering::SeqCst) || to_client.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _both = (from_server.shutdown(Shutdown::Both), to_client.shutdown(Shutdown::Both));
    });
    Ok(())
}
