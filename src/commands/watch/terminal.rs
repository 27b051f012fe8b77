//! The terminal that `watch` draws on: taken over, and given back as it was, whatever ends the program but SIGKILL.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::panic;
use std::sync::Once;

use nix::errno::Errno;
use nix::libc::termios;
use nix::sys::termios::{
    FlushArg, LocalFlags, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcflush, tcgetattr, tcsetattr,
};
use ratatui::Frame;
use ratatui::backend::TermionBackend;
use ratatui::termion::cursor::{Hide, Show};
use ratatui::termion::screen::{ToAlternateScreen, ToMainScreen};

/// A terminal in our hands. Dropped, it is given back.
#[derive(Debug)]
pub(super) struct Terminal {
    screen: ratatui::Terminal<TermionBackend<BufWriter<Stdout>>>,
    before: termios,
}

/// Whether somebody can see what is drawn, and type.
pub(super) fn is_there() -> bool {
    io::stdin().is_terminal()
        && io::stdout().is_terminal()
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

impl Terminal {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// It is none, or it is gone.
    pub(super) fn take() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?.into();
        give_back_on_panic(before);
        let screen = ratatui::Terminal::new(TermionBackend::new(BufWriter::new(io::stdout())))?;
        let mut terminal = Self { screen, before };
        terminal.retake()?;
        Ok(terminal)
    }

    /// Takes it over again after [`Terminal::give_back`], or after who knows what (SIGSTOP).
    ///
    /// # Errors
    /// It is gone.
    pub(super) fn retake(&mut self) -> io::Result<()> {
        let mut raw = Termios::from(self.before);
        cfmakeraw(&mut raw);
        // Ctrl-C and Ctrl-Z go on to be signals: what they do is done in one place, whoever sends them.
        raw.local_flags |= LocalFlags::ISIG;
        // A read takes what was typed and never waits. The flag O_NONBLOCK would be the shell's as well.
        for (index, value) in [(SpecialCharacterIndices::VMIN, 0), (SpecialCharacterIndices::VTIME, 0)] {
            if let Some(character) = raw.control_chars.get_mut(index as usize) {
                *character = value;
            }
        }
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw)?;
        write(&format!("{ToAlternateScreen}{Hide}"))?;
        // All is to be drawn anew. `clear` asks the terminal where its cursor is and waits for the answer among the keys.
        let size = self.screen.size()?;
        self.screen.resize(size.into())
    }

    /// Draws what has changed.
    ///
    /// # Errors
    /// It is gone.
    pub(super) fn draw(&mut self, view: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.screen.draw(view).map(drop)
    }

    /// Makes it what it was before.
    pub(super) fn give_back(&self) {
        give_back(self.before);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// What is gone (SIGHUP) needs nothing.
fn give_back(before: termios) {
    let _ = write(&format!("{Show}{ToMainScreen}"));
    // What was typed for us is not for the shell.
    let _: Result<(), Errno> = tcflush(io::stdin(), FlushArg::TCIFLUSH);
    let _: Result<(), Errno> = tcsetattr(io::stdin(), SetArg::TCSANOW, &before.into());
}

/// So that the message of a panic is seen, which is written before anything is dropped.
fn give_back_on_panic(before: termios) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            give_back(before);
            tell(panic);
        }));
    });
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
