//! How much is told aloud: no datagram decides how much is logged. What comes too often is for who debugs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::auth::AuthError;
use crate::tiers::Tier;
use crate::time::{LocalTime, Span};
use crate::timers::{Allowance, Throttle};

/// At most one warning of a kind in this time.
const WARNING_PAUSE: Span = Span::from_secs(60);
/// What has changed (a role, a member) is told so many times in advance: a hundred members join and are counted, ...
const NEWS: i64 = 256;
/// ... and then once in this time. Whoever joins under one made-up number after the other is news as well.
const NEWS_PAUSE: Span = Span::from_secs(6);
/// At most one of those who are not authentic is named in this time, ...
const NAMING_PAUSE: Span = Span::from_secs(15);
/// ... and at most so many ever: enough for the misconfigured, and no more than that for an attacker.
const STRANGERS: usize = 64;

/// How much may still be told aloud. What is not is for who debugs.
#[derive(Debug, Default)]
pub(crate) struct LogAllowance {
    /// When something of a kind was told last.
    kinds: BTreeMap<(Tier, &'static str), Throttle>,
    news: Allowance,
    /// Who was named as not authentic, and why.
    named: BTreeSet<(IpAddr, AuthError)>,
    naming: Throttle,
}

impl LogAllowance {
    /// True for the first of a kind in a while.
    pub(crate) fn admits_kind(&mut self, now: LocalTime, tier: Tier, kind: &'static str) -> bool {
        self.kinds.entry((tier, kind)).or_default().admits(now, WARNING_PAUSE)
    }

    /// True for what has changed, unless so much does that somebody seems to make it so.
    pub(crate) fn admits_news(&mut self, now: LocalTime) -> bool {
        self.news.admits(now, NEWS_PAUSE, NEWS)
    }

    /// True once for each who is not authentic, and for each reason. Whoever makes up addresses makes us neither log nor remember more.
    pub(crate) fn admits_naming(&mut self, now: LocalTime, from: IpAddr, error: AuthError) -> bool {
        let stranger = (from, error);
        let is_new = self.named.len() < STRANGERS && !self.named.contains(&stranger);
        is_new && self.naming.admits(now, NAMING_PAUSE) && self.named.insert(stranger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// How many of a flood of 1,000 a second are told in each of some minutes.
    fn told(minutes: i64, mut admits: impl FnMut(LocalTime, u32) -> bool) -> Vec<usize> {
        let mut numbers = 0..;
        let mut minute = |minute: i64| {
            let begin = LocalTime::from_nanos(0) + Span::from_secs(1_000 + 60 * minute);
            let now = |index: i64| begin + Span::from_millis(index);
            (0..60_000).filter(|index| admits(now(*index), numbers.next().unwrap_or_default())).count()
        };
        (0..minutes).map(&mut minute).collect()
    }

    #[test]
    fn a_kind_is_told_once_a_minute() {
        let mut log = LogAllowance::default();
        assert_eq!(told(3, |now, _| log.admits_kind(now, Tier::Lower, "a")), [1, 1, 1]);
        let now = LocalTime::from_nanos(0) + Span::from_secs(1_179);
        assert!(
            log.admits_kind(now, Tier::Lower, "b") && log.admits_kind(now, Tier::Upper, "a"),
            "others have their own"
        );
    }

    #[test]
    fn news_are_told_until_there_are_too_many_of_them() {
        let mut log = LogAllowance::default();
        assert_eq!(told(3, |now, _| log.admits_news(now)), [265, 10, 10]);
    }

    #[test]
    fn strangers_are_named_one_by_one_and_not_without_end() {
        let mut log = LogAllowance::default();
        // Each from another address.
        let mut named = told(20, |now, number| {
            log.admits_naming(now, Ipv4Addr::from_bits(0x0A00_0000 + number).into(), AuthError::Unauthenticated)
        });
        assert_eq!(named.split_off(16), [0; 4]);
        assert_eq!(named, [4; 16]);
        // And one is named once, however long it goes on.
        let mut log = LogAllowance::default();
        let one = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(told(3, |now, _| log.admits_naming(now, one, AuthError::Unauthenticated)), [1, 0, 0]);
    }
}
