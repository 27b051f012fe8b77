//! A node that is looked at once a second, in a thread that waits for it so that nobody else has to.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use log::{info, warn};

use crate::failure::one_line;
use crate::local_clock::LocalClock;
use crate::observation::{Happening, Look, Observation};
use crate::status::Status;
use crate::status_client::{Answer, PATIENCE, Silence};
use crate::time::Span;

/// Between two looks: masterships change within half a second, but who looks at a page sees no more.
const PAUSE: Span = Span::from_secs(1);
/// A look takes no more than this part of the time, its own and the node's: that at ten thousand slaves takes 60 ms or so.
const PART: i64 = 20;

/// One node, and what was seen of it.
#[derive(Debug)]
pub(super) struct Watched {
    /// Where its socket may be, in the order of preference; at least one.
    places: Vec<PathBuf>,
    seen: Mutex<Seen>,
}

/// What was seen of a node.
#[derive(Debug)]
pub(super) struct Seen {
    /// Where it answered last, or is most likely to.
    pub(super) path: PathBuf,
    pub(super) observation: Observation,
}

impl Watched {
    pub(super) fn new(places: Vec<PathBuf>) -> Self {
        let path = places.first().cloned().unwrap_or_default();
        Self { places, seen: Mutex::new(Seen { path, observation: Observation::default() }) }
    }

    /// What was seen so far. Not to be held while anything is waited for.
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks once; returns how long it took.
    fn look(&self, clock: &LocalClock) -> Span {
        let start = clock.now();
        let answer = Answer::of_first(&self.places, PATIENCE)
            .and_then(|answer| answer.status().map(|status| (answer.path, status)));
        // What it takes to parse is no doubt about when the node read its clock, but it is the safe side.
        let took = clock.now() - start;
        self.take_in(clock, took, answer);
        took
    }

    fn take_in(&self, clock: &LocalClock, took: Span, answer: Result<(&Path, Status), Silence>) {
        let mut seen = self.seen();
        // Read with the lock held: who reads the clock and then has the lock has all that was seen before.
        let at = clock.now();
        match answer {
            Ok((path, status)) => {
                let is_first = seen.observation.last().is_none();
                seen.path = path.to_owned();
                let happenings = seen.observation.see(Look { at, took, status });
                let path = seen.path.display();
                if is_first {
                    info!("{path}: a node answers");
                }
                for happening in happenings.iter().filter(|happening| is_of_the_daemon(happening)) {
                    info!("{path}: {happening}");
                }
            }
            Err(silence) => {
                if let Some(happening) = seen.observation.miss(at, one_line(&silence.to_string())) {
                    warn!("{}: {happening}", seen.path.display());
                }
            }
        }
    }
}

/// Worth a line in the exporter's log: the rest is in the node's own.
fn is_of_the_daemon(happening: &Happening) -> bool {
    matches!(happening, Happening::Answers { .. } | Happening::Restarted { .. })
}

/// Looks at one of the nodes for as long as the process lives.
///
/// # Errors
/// There is no thread to be had.
pub(super) fn watch(nodes: Arc<[Watched]>, index: usize, clock: LocalClock) -> io::Result<()> {
    let task = move || {
        while let Some(node) = nodes.get(index) {
            let took = node.look(&clock);
            let due = clock.now() + PAUSE.max(took.times(PART));
            // Parking may end early.
            while clock.now() < due {
                thread::park_timeout((due - clock.now()).to_std());
            }
        }
    };
    thread::Builder::new().name(format!("node {index}")).stack_size(STACK).spawn(task).map(drop)
}

/// Parsing a status is not deep.
const STACK: usize = 256 << 10;
