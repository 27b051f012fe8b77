//! `berkeleyd exporter`: shows the nodes of this machine to Prometheus and to browsers. A process of its own, which only reads: a node
//! has no network port but its own, and nobody who looks at the page can change anything.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use clap::Args;
use log::{info, warn};

use crate::commands::{Failure, socket_places};
use crate::exporter::Exporter;

/// Where to show which nodes.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Options {
    /// Serve /metrics and the page here; whoever reaches it can read them
    #[arg(long, value_name = "IP:PORT")]
    pub listen: SocketAddr,
    /// A node's socket; repeatable [default: in $XDG_RUNTIME_DIR, /run or /tmp]
    #[arg(long, value_name = "PATH")]
    pub socket: Vec<PathBuf>,
}

/// Serves until SIGTERM or SIGINT. Nodes need not run yet, and may come and go.
///
/// # Errors
/// What the system refused, before anything was served.
pub fn exporter(options: Options) -> Result<(), Failure> {
    let Options { listen, socket } = options;
    let listener = TcpListener::bind(listen).map_err(|error| Failure::Failed(cannot_listen(listen, &error)))?;
    let failed = |error: io::Error| Failure::Failed(error.to_string());
    let address = listener.local_addr().map_err(failed)?;
    let nodes =
        if socket.is_empty() { vec![socket_places()] } else { socket.into_iter().map(|path| vec![path]).collect() };
    let exporter = Exporter::new(listener, nodes).map_err(failed)?;
    info!("page at http://{address}/ and metrics at http://{address}/metrics");
    if !address.ip().is_loopback() {
        warn!(
            "whoever reaches {address} can read the page and the metrics: there is no password (--listen 127.0.0.1:{})",
            address.port()
        );
    }
    exporter.run().map_err(failed)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "whatever else the system says speaks for itself")]
fn cannot_listen(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("--listen {address}: another program has this port; choose another one"),
        io::ErrorKind::AddrNotAvailable => {
            format!("--listen {address}: this machine has no such address; 127.0.0.1 is always there, 0.0.0.0 is all")
        }
        io::ErrorKind::PermissionDenied => {
            format!("--listen {address}: ports below 1024 are for root; choose a higher one")
        }
        _ => format!("--listen {address}: {error}"),
    }
}
