//! Shows running nodes over HTTP: metrics for Prometheus, a page for people, and the JSON that the page reads.
//!
//! Each node is looked at by a thread of its own (`watched`), so that one that hangs holds nobody up; whoever asks over HTTP gets what was
//! seen last, and how old that is. One thread serves all clients (`http`); what they get is in `answers`, `metrics` and `api`.
//!
//! Nothing here takes orders. What is shown is what `berkeleyd status` shows: no key, no secret.

mod answers;
mod api;
mod http;
mod metrics;
mod watched;

use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use crate::local_clock::LocalClock;
use crate::time::Skew;

use answers::Answers;
use http::Server;
use watched::{Watched, watch};

/// A listening socket, and the nodes that it shows.
#[derive(Debug)]
pub struct Exporter {
    server: Server,
}

impl Exporter {
    /// Begins to look. `nodes`: for each, where its socket may be.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new(listener: TcpListener, nodes: Vec<Vec<PathBuf>>) -> io::Result<Self> {
        let clock = LocalClock::new(Skew::ZERO)?;
        let nodes: Arc<[Watched]> = nodes.into_iter().map(Watched::new).collect();
        let server = Server::new(listener, clock, Answers::new(Arc::clone(&nodes), clock)?)?;
        (0..nodes.len()).try_for_each(|index| watch(Arc::clone(&nodes), index, clock))?;
        Ok(Self { server })
    }

    /// Serves until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// The system refuses to wait for sockets.
    pub fn run(self) -> io::Result<()> {
        self.server.run()
    }
}
