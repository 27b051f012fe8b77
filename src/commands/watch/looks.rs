//! Looks at the node, again and again, from a thread of its own: a node that is stopped takes seconds not to answer, and keys are obeyed meanwhile.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use mio::Waker;

use crate::local_clock::{LocalClock, Pair};
use crate::status::Status;
use crate::status_client::{Answer, PATIENCE};
use crate::time::{Skew, Span};

/// Between two looks. Rounds follow each other once a second or, at their fastest, eight times: twice a second sees what matters, and costs the node
/// two wake-ups.
const PAUSE: Span = Span::from_millis(500);
/// A look at thousands of slaves takes its time, which is the node's time as well: no more than a part in this is spent on looking.
const SPARING: i64 = 20;

/// What one look saw.
#[derive(Debug)]
pub(super) struct Seen {
    /// When it was over, on both clocks.
    pub(super) at: Pair,
    /// How long it took.
    pub(super) took: Span,
    /// The status, or why there is none.
    pub(super) status: Result<Box<Status>, String>,
}

/// Starts looking at the first of these sockets that answers; each look wakes the poll behind `waker`.
///
/// # Errors
/// The system has no clock, or no room for a thread.
pub(super) fn start(places: Vec<PathBuf>, waker: Waker) -> io::Result<Receiver<Seen>> {
    let clock = LocalClock::new(Skew::ZERO)?;
    // One at a time: who is slow to draw is not to see old ones.
    let (sender, receiver) = sync_channel(1);
    thread::Builder::new().name("looks".to_owned()).spawn(move || look_on(&places, clock, &sender, &waker))?;
    Ok(receiver)
}

/// Until nobody takes the looks any more.
fn look_on(places: &[PathBuf], clock: LocalClock, sender: &SyncSender<Seen>, waker: &Waker) {
    loop {
        let began = clock.now();
        let status = Answer::of_first(places, PATIENCE).and_then(|answer| answer.status());
        let at = clock.pair();
        let took = at.local - began;
        let pause = if status.is_ok() { PAUSE.max(took.times(SPARING)) } else { PAUSE };
        let status = status.map(Box::new).map_err(|silence| silence.to_string());
        if sender.send(Seen { at, took, status }).is_err() || waker.wake().is_err() {
            return;
        }
        thread::park_timeout(pause.to_std());
    }
}
