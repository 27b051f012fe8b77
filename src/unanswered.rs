//! The requests to one node whose answers are still waited for.
//!
//! An answer may be late, and others be asked for meanwhile: as many are remembered as can be under way, and not one more.

use crate::stamp::Stamp;
use crate::time::{LocalTime, Span};

/// A request whose answer is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What it carries, and its answer gives back: its name.
    pub t1: LocalTime,
    /// When it left: `t1`, until somebody nearer to the wire says better.
    pub left: Stamp,
    /// How long the answer was asked to wait.
    pub window: Span,
}

/// The last `N` of them that have not been answered. Later ones follow earlier ones.
///
/// On the heap from the first one on: the members of a large group are asked all together, and have none of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unanswered<const N: usize>(Option<Box<[Option<Asked>; N]>>);

impl<const N: usize> Unanswered<N> {
    /// A request goes out. The oldest is given up when there is no room for another.
    pub fn push(&mut self, asked: Asked) {
        let requests = self.0.get_or_insert_with(|| Box::new([None; N]));
        let free = requests.iter().position(Option::is_none).unwrap_or(0);
        if let Some(later) = requests.get_mut(free..) {
            later.rotate_left(1);
        }
        if let Some(last) = requests.last_mut() {
            *last = Some(asked);
        }
    }

    /// The request with this t1, if its answer is still waited for.
    pub fn at(&mut self, t1: LocalTime) -> Option<&mut Asked> {
        self.0.iter_mut().flat_map(|requests| requests.iter_mut()).flatten().find(|asked| asked.t1 == t1)
    }

    /// True while an answer to the request with this t1 is waited for.
    pub fn contains(&self, t1: LocalTime) -> bool {
        self.0.iter().flat_map(|requests| requests.iter()).flatten().any(|asked| asked.t1 == t1)
    }

    /// The request with this t1, when its answer has come: no other is waited for.
    pub fn take(&mut self, t1: LocalTime) -> Option<Asked> {
        let mut requests = self.0.iter_mut().flat_map(|requests| requests.iter_mut());
        requests.find_map(|asked| asked.take_if(|asked| asked.t1 == t1))
    }

    /// The request that went out last, of those whose answers are waited for.
    pub fn last(&self) -> Option<&Asked> {
        self.0.iter().flat_map(|requests| requests.iter()).flatten().next_back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(t1: i64) -> Asked {
        let t1 = LocalTime::from_nanos(t1);
        Asked { t1, left: Stamp::user(t1), window: Span::ZERO }
    }

    #[test]
    fn as_many_are_waited_for_as_there_is_room_for() {
        let mut unanswered = Unanswered::<3>::default();
        assert_eq!(unanswered.last(), None);
        (1..=4).for_each(|t1| unanswered.push(asked(t1)));
        assert_eq!((unanswered.take(asked(1).t1), unanswered.last()), (None, Some(&asked(4))));
        // An answer makes room for one more, wherever it was.
        assert_eq!(unanswered.take(asked(3).t1), Some(asked(3)));
        assert_eq!(unanswered.take(asked(3).t1), None);
        unanswered.push(asked(5));
        for t1 in [2, 4, 5] {
            assert_eq!(unanswered.at(asked(t1).t1), Some(&mut asked(t1)));
        }
        unanswered.push(asked(6));
        assert_eq!(unanswered.at(asked(2).t1), None);
        assert_eq!(unanswered.last(), Some(&asked(6)));
    }
}
