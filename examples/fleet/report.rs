//! What came of a run: its figures, for people and as JSON, and which of the limits it missed.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Of all (slave, round) pairs so many are to be corrected.
const CORRECTED: f64 = 0.999;
/// And so many on a machine that has other work: there an answer may come after the round has been averaged.
const CORRECTED_BUSY: f64 = 0.98;
/// The master may take so much of a core.
const CPU: f64 = 0.5;
/// It may keep so much resident: 16 MiB with ten thousand slaves, ...
const BASE_KIB: u64 = 16 * 1_024 - 10_000;
/// ... of which this is for each.
const KIB_A_SLAVE: u64 = 1;
/// All are to have joined after this, and so much for each, in seconds.
const JOINING: (f64, f64) = (5.0, 0.001);
/// Rounds may come so much later than one in each interval.
const LATE: f64 = 1.1;

/// The figures of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) slaves: u32,
    pub(crate) threads: u32,
    pub(crate) authenticated: bool,
    pub(crate) interval_s: f64,
    /// From the start of the first slave, or of the master if that came later, until all were corrected; `None`: they never were.
    pub(crate) joined_s: Option<f64>,
    pub(crate) measured_s: f64,
    pub(crate) rounds: u32,
    /// Of all (slave, round) pairs.
    pub(crate) corrected: f64,
    /// Slaves corrected in the worst round.
    pub(crate) worst_round: u32,
    pub(crate) looks: u32,
    /// At one instant, the largest difference of two clocks: over the looks the median, and the largest.
    pub(crate) spread_median_us: f64,
    pub(crate) spread_max_us: f64,
    /// The largest part that it took of the bounds of those two.
    pub(crate) share_of_bounds: f64,
    /// Looks at which some two clocks were further apart than their bounds say.
    pub(crate) beyond_bounds: u32,
    /// Whether the master's own clock was within its bound and theirs at the end; `None`: it did not answer.
    pub(crate) master_within_bounds: Option<bool>,
    /// Of a core.
    pub(crate) master_cpu: f64,
    /// What a round took of it for each slave, in µs: to ask, to hear the answer, to correct, and a part of all else that it does.
    pub(crate) master_micros_an_exchange: f64,
    /// Of the time, how long it waited for a processor that others had.
    pub(crate) master_waited: f64,
    pub(crate) master_resident_kib: u64,
    pub(crate) master_highest_kib: u64,
    /// What each slave added; `None` when slaves were there before the master.
    pub(crate) master_bytes_a_slave: Option<u64>,
    pub(crate) master_drops_joining: u64,
    pub(crate) master_drops: u64,
    /// Cores that all the slaves took.
    pub(crate) fleet_cpu: f64,
    pub(crate) fleet_drops: u64,
    pub(crate) send_errors: u64,
    pub(crate) unreachable: u64,
    /// Datagrams that slaves dropped during the whole run, by reason.
    pub(crate) dropped: BTreeMap<&'static str, u64>,
    /// The load average of the last minute at the end.
    pub(crate) load: String,
    /// The limits that were missed, a line each.
    pub(crate) missed: Vec<String>,
}

impl Report {
    /// Finds the limits that were missed. `is_busy`: the machine has other work, or the build is none to be judged by.
    pub(crate) fn judge(&mut self, is_busy: bool) {
        let resident = BASE_KIB + KIB_A_SLAVE * u64::from(self.slaves);
        let joining = JOINING.0 + JOINING.1 * f64::from(self.slaves);
        let expected = self.measured_s / (self.interval_s * LATE) - 2.0;
        let timely = [
            (
                self.master_cpu > CPU,
                format!("the master took {:.1} % of a core, not {:.0}", 100.0 * self.master_cpu, 100.0 * CPU),
            ),
            (
                self.master_highest_kib > resident,
                format!("the master had {} KiB resident, not {resident}", self.master_highest_kib),
            ),
            (
                self.joined_s.is_some_and(|joined| joined > joining),
                format!("all had joined after {:.1} s, not {joining:.1}", self.joined_s.unwrap_or_default()),
            ),
            (
                f64::from(self.rounds) < expected,
                format!("there were {} rounds in {:.1} s", self.rounds, self.measured_s),
            ),
        ];
        let corrected = if is_busy { CORRECTED_BUSY } else { CORRECTED };
        let always = [
            (self.joined_s.is_none(), "not all slaves were ever corrected".to_owned()),
            (self.rounds == 0, "there was no whole round".to_owned()),
            (
                self.corrected < corrected,
                format!(
                    "{:.3} % of all (slave, round) pairs were corrected, not {:.1}",
                    100.0 * self.corrected,
                    100.0 * corrected
                ),
            ),
            (self.master_drops > 0, format!("the master's sockets dropped {} datagrams", self.master_drops)),
            (
                self.beyond_bounds > 0,
                format!(
                    "clocks were further apart than their bounds at {} of {} looks",
                    self.beyond_bounds, self.looks
                ),
            ),
            (self.looks == 0, "nobody looked at the clocks".to_owned()),
            (
                self.master_within_bounds != Some(true),
                "the master's clock was further from the slaves' than their bounds, or it did not answer".to_owned(),
            ),
        ];
        let judged = always.into_iter().chain(timely.into_iter().filter(|_| !is_busy));
        self.missed = judged.filter(|(is_missed, _)| *is_missed).map(|(_, text)| text).collect();
    }
}

/// For people: a line each.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = if self.authenticated { "with keys" } else { "without keys" };
        writeln!(
            f,
            "{} slaves on {} threads, {keys}, a round each {} s, load {}",
            self.slaves, self.threads, self.interval_s, self.load
        )?;
        match self.joined_s {
            Some(joined) => writeln!(f, "all corrected after    {joined:.2} s")?,
            None => writeln!(f, "all corrected after    never")?,
        }
        writeln!(f, "measured for           {:.1} s, {} whole rounds", self.measured_s, self.rounds)?;
        writeln!(
            f,
            "corrected              {:.3} % of all (slave, round) pairs, {} slaves in the worst round",
            100.0 * self.corrected,
            self.worst_round
        )?;
        writeln!(
            f,
            "spread                 median {:.1} us, maximum {:.1} us: {:.1} % of the bounds, at {} looks",
            self.spread_median_us,
            self.spread_max_us,
            100.0 * self.share_of_bounds,
            self.looks
        )?;
        let each = self.master_bytes_a_slave.map_or_else(String::new, |bytes| format!(", {bytes} bytes a slave"));
        writeln!(
            f,
            "master                 {:.1} % of a core (waited for one {:.1} % of the time), {} KiB resident, {} at most{each}",
            100.0 * self.master_cpu,
            100.0 * self.master_waited,
            self.master_resident_kib,
            self.master_highest_kib
        )?;
        writeln!(f, "each slave and round   {:.1} us of it", self.master_micros_an_exchange)?;
        writeln!(
            f,
            "its sockets dropped    {} datagrams, and {} while all joined",
            self.master_drops, self.master_drops_joining
        )?;
        writeln!(
            f,
            "slaves                 {:.2} cores; dropped by their sockets {}, not sent {}, unreachable {}",
            self.fleet_cpu, self.fleet_drops, self.send_errors, self.unreachable
        )?;
        let reasons = self.dropped.iter().filter(|(_, count)| **count > 0);
        let reasons: Vec<String> = reasons.map(|(reason, count)| format!("{reason} {count}")).collect();
        let reasons = if reasons.is_empty() { "nothing".to_owned() } else { reasons.join(", ") };
        writeln!(f, "dropped by slaves      {reasons}")?;
        self.missed.iter().try_for_each(|missed| writeln!(f, "missed: {missed}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run in which all went well.
    fn good() -> Report {
        Report {
            slaves: 10_000,
            threads: 3,
            authenticated: false,
            interval_s: 1.0,
            joined_s: Some(14.9),
            measured_s: 30.0,
            rounds: 29,
            corrected: 0.999,
            worst_round: 9_700,
            looks: 121,
            spread_median_us: 2.0,
            spread_max_us: 5.0,
            share_of_bounds: 0.5,
            beyond_bounds: 0,
            master_within_bounds: Some(true),
            master_cpu: 0.5,
            master_micros_an_exchange: 50.0,
            master_waited: 0.1,
            master_resident_kib: 16_384,
            master_highest_kib: 16_384,
            master_bytes_a_slave: Some(1_024),
            master_drops_joining: 7,
            master_drops: 0,
            fleet_cpu: 0.9,
            fleet_drops: 7,
            send_errors: 7,
            unreachable: 7,
            dropped: BTreeMap::new(),
            load: String::new(),
            missed: Vec::new(),
        }
    }

    type Change = fn(&mut Report);

    fn missed(change: impl FnOnce(&mut Report), is_busy: bool) -> Vec<String> {
        let mut report = good();
        change(&mut report);
        report.judge(is_busy);
        report.missed
    }

    #[test]
    fn each_limit_is_missed_alone_and_just_above_it() {
        assert_eq!(missed(|_| (), false), Vec::<String>::new());
        let always: [(&str, Change); 7] = [
            ("99.899 %", |report| report.corrected = 0.998_99),
            ("dropped 1 ", |report| report.master_drops = 1),
            ("at 1 of 121 looks", |report| report.beyond_bounds = 1),
            ("nobody looked", |report| report.looks = 0),
            ("master's clock", |report| report.master_within_bounds = Some(false)),
            ("did not answer", |report| report.master_within_bounds = None),
            ("ever corrected", |report| report.joined_s = None),
        ];
        let timely: [(&str, Change); 4] = [
            ("50.1 % of a core", |report| report.master_cpu = 0.501),
            ("16385 KiB", |report| report.master_highest_kib = 16_385),
            ("15.1 s, not 15.0", |report| report.joined_s = Some(15.1)),
            ("25 rounds", |report| report.rounds = 25),
        ];
        for (words, change) in always.into_iter().chain(timely) {
            let missed = missed(change, false);
            assert!(missed.len() == 1 && missed[0].contains(words), "{words}: {missed:?}");
        }
        assert_eq!(missed(|report| report.corrected = 0.98, true), Vec::<String>::new());
        assert_eq!(missed(|report| report.corrected = 0.979, true).len(), 1);
        for (words, change) in timely {
            assert_eq!(missed(change, true), Vec::<String>::new(), "{words}");
        }
    }
}
