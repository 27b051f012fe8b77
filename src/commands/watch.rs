//! `berkeleyd watch`: a node and, on a master, its slaves, live on a terminal.
//!
//! `looks.rs` asks the node, `app.rs` knows what was seen and what keys do, `view.rs` and `chart.rs` draw it, `terminal.rs` has the terminal. Here they
//! meet: something is drawn when there is something new, a look or a key, and else this process sleeps.

mod app;
mod chart;
mod keys;
mod looks;
mod terminal;
#[cfg(test)]
mod tests;
mod view;

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::mpsc::Receiver;

use anstream::{AutoStream, ColorChoice};
use clap::Args;
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::low_level::emulate_default_handler;
use signal_hook_mio::v1_0::Signals;

use crate::commands::{Failure, socket_places};
use app::{App, Flow};
use looks::Seen;
use terminal::Terminal;
use view::Palette;

const KEYS: Token = Token(0);
const SIGNALS: Token = Token(1);
const LOOKS: Token = Token(2);

/// Which node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Options {
    /// The node's socket [default: in $XDG_RUNTIME_DIR, /run or /tmp]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// Shows the node until somebody has seen enough. It need not run yet, and may stop and start again.
///
/// # Errors
/// There is no terminal to draw on, or the system refuses something.
pub fn watch(options: &Options) -> Result<(), Failure> {
    if !terminal::is_there() {
        let advice = "what is to be kept or piped comes from `berkeleyd status`, or `status --json`";
        return Err(Failure::Mistake(format!("watch draws on a terminal and there is none: {advice}")));
    }
    let places = options.socket.as_ref().map_or_else(socket_places, |path| vec![path.clone()]);
    Watch::start(places).and_then(Watch::run).map_err(|error| Failure::Failed(format!("terminal: {error}")))
}

struct Watch {
    poll: Poll,
    signals: Signals,
    looks: Receiver<Seen>,
    app: App,
    palette: Palette,
    terminal: Terminal,
}

impl Watch {
    fn start(places: Vec<PathBuf>) -> io::Result<Self> {
        let poll = Poll::new()?;
        // First of all: from here on a signal finds somebody who gives the terminal back.
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH])?;
        poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
        poll.registry().register(&mut SourceFd(&libc::STDIN_FILENO), KEYS, Interest::READABLE)?;
        let looks = looks::start(places, Waker::new(poll.registry(), LOOKS)?)?;
        let has_colours = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
        let terminal = Terminal::take()?;
        Ok(Self { poll, signals, looks, app: App::new(), palette: Palette { has_colours }, terminal })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(8);
        loop {
            let (app, palette) = (&self.app, self.palette);
            self.terminal.draw(|frame| view::draw(frame, app, palette))?;
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => result?,
            }
            for event in &events {
                if self.obey(event)? == Flow::Quit {
                    return Ok(());
                }
            }
        }
    }

    fn obey(&mut self, event: &Event) -> io::Result<Flow> {
        match event.token() {
            // Hung up, and nobody said so by a signal.
            KEYS if event.is_read_closed() || event.is_error() => Ok(Flow::Quit),
            KEYS => self.type_keys(),
            SIGNALS => self.heed_signals(),
            _ => {
                while let Ok(seen) = self.looks.try_recv() {
                    self.app.see(seen);
                }
                Ok(Flow::GoOn)
            }
        }
    }

    fn type_keys(&mut self) -> io::Result<Flow> {
        let mut typed = [0; 1024];
        loop {
            // Without a line in between: the terminal's own buffer is what is read, see `terminal.rs`.
            let length = io::stdin().lock().read(&mut typed)?;
            let bytes = typed.get(..length).unwrap_or_default();
            for key in keys::keys(bytes) {
                if self.app.press(key) == Flow::Quit {
                    return Ok(Flow::Quit);
                }
            }
            if bytes.is_empty() {
                return Ok(Flow::GoOn);
            }
        }
    }

    fn heed_signals(&mut self) -> io::Result<Flow> {
        let pending: Vec<i32> = self.signals.pending().collect();
        for signal in pending {
            match signal {
                // Ctrl-Z: the shell gets its terminal, and SIGCONT says when it is ours again.
                SIGTSTP => {
                    self.terminal.give_back();
                    emulate_default_handler(SIGTSTP)?;
                }
                SIGCONT => self.terminal.retake()?,
                // It is drawn anew anyway, and the library asks for the size then.
                SIGWINCH => (),
                _ => return Ok(Flow::Quit),
            }
        }
        Ok(Flow::GoOn)
    }
}
