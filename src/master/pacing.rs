//! How a master spreads its work over time: rules of how many members there are and how far rounds are apart.
//!
//! Pure. What is simulated without frames (`sim/coarse.rs`) goes by the same rules.

use crate::config::NodeConfig;
use crate::protocol::Window;
use crate::time::Span;

/// Between the requests of a newcomer's burst: eight of them take 140 ms, and a queue empties in between.
pub(crate) const BURST_PAUSE: Span = Span::from_millis(20);
/// Members that may be in a burst at a time, before anybody else is asked. Ten thousand at once would be 80,000 requests within a fifth of a
/// second; so it takes them some eight seconds, and the others join again meanwhile.
pub(crate) const BURSTS: usize = 256;
/// How often a member is asked in one round, and how often a correction is sent.
pub(crate) const ATTEMPTS: u8 = 4;
/// Between these some corrections of a large group are sent. Shorter is nothing a poll can wait for.
pub(crate) const HAND_OUT_PAUSE: Span = Span::from_millis(1);

/// Between the requests to one member and the next, so that their answers do not queue behind each other.
const PACE: Span = Span::from_micros(300);
/// Up to so many members are asked twice in a round, the second time as soon as the first answer is there. What has slept for a
/// second wakes slowly, program, caches and processor, and not both ends alike; a second time it does not. More members
/// are asked all together, which keeps at least the master awake.
const ASKED_TWICE: usize = 128;
/// Where all are asked at once their answers have so much time each: 40 in a millisecond, what a processor takes in with ease. A socket buffer of 212,992 bytes, the
/// default, holds some 277: a master that stands still for 5 ms finds 200. Longer: clocks drift further before the round is over.
const ANSWER_PAUSE: Span = Span::from_micros(25);
/// Rounds nearer to each other than this do not ask the group: slaves answer one such request in 50 ms.
const SHORTEST_CALLED_PAUSE: Span = Span::from_millis(100);
/// A round asks everybody within this part of its interval, however many there are.
const ASKING_PART: i64 = 4;
/// A round waits for answers no longer than this part of its interval.
const COLLECTING_PART: i64 = 2;
/// Rounds are not made shorter than this for each member: a thousand are asked once a second, however little is known of them.
const MEMBER_PAUSE: Span = Span::from_millis(1);
/// So many corrections of a large group are sent at a time. A socket buffer of the default size holds some 277 datagrams: ten thousand at once would be
/// lost, and so would other frames behind them.
const HANDED_OUT: usize = 64;
/// All are sent within this part of the time between two rounds, if need be more at a time: asking takes a quarter and waiting another.
const HANDING_OUT_PART: i64 = 8;
/// Where rounds are no further apart than this, corrections of a large group are acknowledged by the next response. Longer: who has missed
/// its correction goes on without it for that time.
const LONGEST_UNACKNOWLEDGED: Span = Span::from_secs(2);

/// True for more members than can be looked after one by one.
pub(crate) fn is_large(members: usize) -> bool {
    members > ASKED_TWICE
}

/// How long the members have to answer when they are asked all together; `None` when each is asked alone. `pause`: to the next round.
pub(crate) fn window(members: usize, pause: Span) -> Option<Window> {
    let is_called = is_large(members) && pause >= SHORTEST_CALLED_PAUSE;
    is_called.then(|| Window::new(ANSWER_PAUSE.times(count(members)).min(pause.part(ASKING_PART))))
}

/// Time from the request to one member until that to the next, when so many are asked alone.
pub(crate) fn request_pace(asked: usize, pause: Span) -> Span {
    PACE.min(pause.part(ASKING_PART).part(count(asked).max(1)))
}

/// How long a round waits for answers.
pub(crate) fn collecting(pause: Span) -> Span {
    pause.part(COLLECTING_PART)
}

/// How many corrections of a large group are sent at a time, each [`HAND_OUT_PAUSE`].
pub(crate) fn handed_out(members: usize, pause: Span) -> usize {
    let turns = usize::try_from(pause.part(HANDING_OUT_PART).as_nanos() / HAND_OUT_PAUSE.as_nanos()).unwrap_or(1);
    HANDED_OUT.max(members / turns.max(1))
}

/// True when the next response of a member of a large group acknowledges its correction.
pub(crate) fn is_acknowledged_by_response(pause: Span) -> bool {
    pause <= LONGEST_UNACKNOWLEDGED
}

/// Time to the next round at least: no more than the shortest that was asked for, unless that would be too much for so many members.
pub(crate) fn shortest_pause(members: usize, config: &NodeConfig) -> Span {
    config.min_interval.max(MEMBER_PAUSE.times(count(members))).min(config.interval)
}

/// Time to the next round. Rounds come twice as often when most bounds grow by much from one to the next, half as often when they would not even
/// then. Most: one oscillator in a draught shall not have everybody asked all the time. `may_wait`: of each member, whether its bound does
/// not grow by much meanwhile.
pub(crate) fn next_pause<I: Iterator<Item = bool>>(
    members: usize,
    config: &NodeConfig,
    present: Span,
    may_wait: impl Fn(Span) -> I,
) -> Span {
    let most_may_wait = |pause| may_wait(pause).map(|may| if may { 1_i64 } else { -1 }).sum::<i64>() > 0;
    let longest = config.max_interval;
    let present = present.min(longest);
    let longer = present.times(2).min(longest);
    if most_may_wait(longer) {
        longer
    } else if most_may_wait(present) {
        present
    } else {
        present.part(2).max(shortest_pause(members, config))
    }
}

fn count(members: usize) -> i64 {
    i64::try_from(members).unwrap_or(i64::MAX)
}
