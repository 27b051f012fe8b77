//! What the service manager is told that started this process, if one did (systemd with `Type=notify`, sd_notify(3)): that the node is
//! ready, how it stands, that it still runs, and that it stops.
//!
//! The socket is made before the system calls are filtered and never waits: a manager that is slow or gone holds nobody up. What it does not take is
//! lost, which is why a sign of life is given twice in the time that the manager waits for one.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use sd_notify::{NotifyState, watchdog_enabled};

use crate::time::{LocalTime, Span};

/// Where notes are sent, and when the next sign of life is due.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    address: SocketAddr,
    watchdog: Option<Watchdog>,
}

#[derive(Debug)]
struct Watchdog {
    pause: Span,
    next: LocalTime,
}

impl ServiceManager {
    /// The one that the environment names (`NOTIFY_SOCKET`, `WATCHDOG_USEC`), if it names one.
    ///
    /// # Errors
    /// What it names is no address of a socket, or there is no socket to be had.
    pub fn of_environment(now: LocalTime) -> io::Result<Option<Self>> {
        let Some(name) = env::var_os("NOTIFY_SOCKET") else {
            return Ok(None);
        };
        let address = match name.as_bytes() {
            [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name),
            _ => SocketAddr::from_pathname(&name),
        }?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let watchdog = watchdog_enabled().map(|patience| Watchdog { pause: Span::from(patience).half(), next: now });
        Ok(Some(Self { socket, address, watchdog }))
    }

    /// The node can be reached and looked at.
    pub fn is_ready(&self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// The node reads its settings again, until [`ServiceManager::is_ready`] says that it has.
    pub fn reloads(&self) {
        // The manager must know which of several orders this is the answer to. Without a clock there is no answer.
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.tell(&[NotifyState::Reloading, now]);
        }
    }

    /// How it stands, in a line for people.
    pub fn stands(&self, text: &str) {
        self.tell(&[NotifyState::Status(text)]);
    }

    /// The node is about to stop.
    pub fn stops(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// When [`ServiceManager::handle_timeout`] is due; `None`: never.
    pub fn poll_timeout(&self) -> Option<LocalTime> {
        self.watchdog.as_ref().map(|watchdog| watchdog.next)
    }

    /// Gives the sign of life that is due, if one is. To be called by the loop itself: one that hangs gives none.
    pub fn handle_timeout(&mut self, now: LocalTime) {
        if let Some(watchdog) = self.watchdog.as_mut().filter(|watchdog| watchdog.next <= now) {
            watchdog.next = now + watchdog.pause;
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    /// In one datagram.
    fn tell(&self, notes: &[NotifyState<'_>]) {
        let text = notes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        // See above: there is nobody else to tell that it was not taken, and the node does its work without.
        let _ = self.socket.send_to_addr(text.as_bytes(), &self.address);
    }
}
