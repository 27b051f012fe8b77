//! Scenarios from files: the text, the place of a mistake in it, and what no single value shows.
//!
//! serde finds the wrong types and the unknown keys; [`mistake`] finds what a run cannot be made of, in a file and on the command
//! line alike. What a value must be is said once, there.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::scenario::{ClockModel, FaultKind, LinkModel, Scenario};
use crate::config::NodeConfig;
use crate::config_file::{Occasion, Position, nearest, text_of};
use crate::time::Span;

/// More nodes than this make no run that anybody waits for.
pub const MAX_NODES: usize = 10_000;
/// The longest time between rounds that a node takes.
const LONGEST_INTERVAL: Span = Span::from_secs(64);
/// A rate beyond this is no oscillator, see [`crate::time::Skew::MAX`].
const MAX_PPM: f64 = 100_000.0;

/// A value that no run can be made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The keys and places that lead to it, such as `faults.0.at`.
    pub path: String,
    /// What it must be, and is not.
    pub fault: String,
}

/// A scenario and the text that it came from.
#[derive(Clone, Debug)]
pub struct ScenarioFile {
    name: String,
    text: String,
    /// What it says.
    pub scenario: Scenario,
}

impl ScenarioFile {
    /// Reads a file, but for what [`mistake`] finds.
    ///
    /// # Errors
    /// Where and what the first mistake is, or why the file cannot be read, in one line.
    pub fn read(path: &Path) -> Result<Self, String> {
        let (name, text) = text_of(path, Occasion::Start)?;
        Self::parse(name, text)
    }

    /// The same for a text; `name` is the file's in complaints.
    ///
    /// # Errors
    /// As [`ScenarioFile::read`].
    pub fn parse(name: String, text: String) -> Result<Self, String> {
        match toml::from_str(&text) {
            Ok(scenario) => Ok(Self { name, text, scenario }),
            Err(error) => {
                let position = Position::of(text.as_bytes(), error.span().unwrap_or_default().start);
                Err(format!("{name}:{position}: {}", plainly(error.message())))
            }
        }
    }

    /// A mistake in this file, and where it stands there.
    pub fn describe(&self, mistake: &Mistake) -> String {
        let Mistake { path, fault } = mistake;
        let key = path.rsplit('.').find(|step| step.parse::<usize>().is_err()).unwrap_or_default();
        match self.position(path) {
            Some(position) => format!("{}:{position}: `{key}` {fault}", self.name),
            None => format!("{}: `{key}` {fault}", self.name),
        }
    }

    /// Where the value stands that a path leads to, or the last part of the way that exists.
    fn position(&self, path: &str) -> Option<Position> {
        let (table, _) = DeTable::parse_recoverable(&self.text);
        let mut steps = path.split('.');
        let first = table.get_ref().get(steps.next()?)?;
        let mut found = first;
        for step in steps {
            let next = match found.get_ref() {
                DeValue::Table(table) => table.get(step),
                DeValue::Array(values) => step.parse().ok().and_then(|index: usize| values.get(index)),
                DeValue::String(_)
                | DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_) => None,
            };
            match next {
                Some(next) => found = next,
                None => break,
            }
        }
        Some(Position::of(self.text.as_bytes(), found.span().start))
    }
}

/// serde's complaint in one line, with the nearest name instead of all of them.
fn plainly(message: &str) -> String {
    let message = message.lines().collect::<Vec<_>>().join(" ");
    let mut names = message.split('`').skip(1).step_by(2);
    let (what, wrong) = if message.starts_with("unknown field") {
        ("key", names.next())
    } else if message.starts_with("unknown variant") {
        ("value", names.next())
    } else {
        return message;
    };
    let wrong = wrong.unwrap_or_default();
    let known: Vec<&str> = names.collect();
    match nearest(wrong, &known) {
        Some(nearest) => format!("unknown {what} `{wrong}`, did you mean `{nearest}`?"),
        None => format!("unknown {what} `{wrong}`, not one of {}", known.join(", ")),
    }
}

/// The first value of a scenario that no run can be made of.
pub fn mistake(scenario: &Scenario) -> Option<Mistake> {
    checks(scenario).err()
}

fn checks(scenario: &Scenario) -> Result<(), Mistake> {
    let Scenario { nodes, duration, domains, clock, clocks, link, node, liars, lie, stagger, faults, limits, about: _ } =
        scenario;
    let nodes = nodes.get();
    within("nodes", nodes <= MAX_NODES, || format!("must be at most {MAX_NODES}, not {nodes}"))?;
    within("duration", *duration > Span::ZERO, || format!("must be positive, not {duration}"))?;
    not_negative("stagger", *stagger)?;
    within("liars", *liars < nodes, || format!("must be fewer than the {nodes} nodes, not {liars}"))?;
    domain_checks(scenario)?;
    clock_checks("clock", clock)?;
    clocks.iter().enumerate().try_for_each(|(index, clock)| clock_checks(&format!("clocks.{index}"), clock))?;
    link_checks(link)?;
    rate("lie.drift-ppm", lie.drift_ppm)?;
    within("node.interval", (NodeConfig::SHORTEST_INTERVAL..=LONGEST_INTERVAL).contains(&node.interval), || {
        format!("must lie between 62.5ms and 64s, not {}", node.interval)
    })?;
    let (shortest, longest) = (node.min_interval.unwrap_or(node.interval), node.max_interval.unwrap_or(node.interval));
    within("node.min-interval", (NodeConfig::SHORTEST_INTERVAL..=node.interval).contains(&shortest), || {
        format!("must lie between 62.5ms and the interval, not {shortest}")
    })?;
    within("node.max-interval", (node.interval..=LONGEST_INTERVAL).contains(&longest), || {
        format!("must lie between the interval and 64s, not {longest}")
    })?;
    within("node.gamma", node.gamma > Span::ZERO, || format!("must be positive, not {}", node.gamma))?;
    for (index, fault) in faults.iter().enumerate() {
        let path = |key: &str| format!("faults.{index}.{key}");
        not_negative(&path("at"), fault.at)?;
        not_negative(&path("for"), fault.lasting)?;
        not_negative(&path("by"), fault.by)?;
        let needs_by = matches!(fault.what, FaultKind::Jump | FaultKind::Slow);
        within(&path("master"), !fault.master || fault.nodes.is_empty(), || "stands instead of `nodes`".to_owned())?;
        within(
            &path("domain"),
            fault.domain.is_none_or(|number| domains.iter().any(|domain| domain.number == number)),
            || "is none of `domains`".to_owned(),
        )?;
        within(&path("what"), !needs_by || fault.by > Span::ZERO, || "needs `by`, how much".to_owned())?;
        let stranger = fault.nodes.iter().find(|node| **node >= nodes);
        within(&path("nodes"), stranger.is_none(), || {
            format!("must be numbers from 0 to {}, not {}", nodes - 1, stranger.copied().unwrap_or_default())
        })?;
    }
    not_negative("limits.judge-from", limits.judge_from)?;
    within("limits.judge-from", limits.judge_from < *duration, || "must be within the duration".to_owned())?;
    let spans = [
        ("limits.settle", limits.settle),
        ("limits.settle-below", limits.settle_below),
        ("limits.max-spread", limits.max_spread),
        ("limits.rms-spread", limits.rms_spread),
        ("limits.max-error", limits.max_error),
        ("limits.median-bound", limits.median_bound),
        ("limits.one-master", limits.one_master),
    ];
    for (path, limit) in spans {
        within(path, limit.is_none_or(|limit| limit > Span::ZERO), || "must be positive".to_owned())?;
    }
    for (index, limit) in limits.tiers.iter().enumerate() {
        within(&format!("limits.tiers.{index}"), *limit > Span::ZERO, || "must be positive".to_owned())?;
    }
    let numbers = [
        ("limits.drag-ppm", limits.drag_ppm),
        ("limits.corrections-per-round", limits.corrections_per_round),
        ("limits.bytes-per-second", limits.bytes_per_second),
    ];
    for (path, limit) in numbers {
        within(path, limit.is_none_or(|limit| limit > 0.0), || "must be positive".to_owned())?;
    }
    Ok(())
}

fn domain_checks(scenario: &Scenario) -> Result<(), Mistake> {
    let Scenario { nodes, domains, node, .. } = scenario;
    let nodes = nodes.get();
    let mut memberships = vec![0_usize; nodes];
    for (index, domain) in domains.iter().enumerate() {
        let path = |key: &str| format!("domains.{index}.{key}");
        let is_new = domains.iter().take(index).all(|other| other.number != domain.number);
        within(&path("number"), is_new, || format!("is given twice: {}", domain.number))?;
        within(&path("nodes"), !domain.nodes.is_empty(), || "must not be empty".to_owned())?;
        for (place, member) in domain.nodes.iter().enumerate() {
            let path = format!("domains.{index}.nodes.{place}");
            let is_new = !domain.nodes.iter().take(place).any(|other| other == member);
            within(&path, is_new, || format!("names {member} twice"))?;
            let Some(memberships) = memberships.get_mut(*member) else {
                return within(&path, false, || format!("must be numbers from 0 to {}, not {member}", nodes - 1));
            };
            *memberships += 1;
            within(&path, *memberships <= 2, || format!("name {member} a third time: a node has one domain above"))?;
        }
    }
    let left = memberships.iter().position(|memberships| *memberships == 0).filter(|_| !domains.is_empty());
    within("domains", left.is_none(), || format!("leave out node {}", left.unwrap_or_default()))?;
    within("node.roles", domains.is_empty() || node.roles.is_empty(), || {
        "give way to the roles of `domains`".to_owned()
    })
}

fn clock_checks(path: &str, clock: &ClockModel) -> Result<(), Mistake> {
    let path = |key: &str| format!("{path}.{key}");
    rate(&path("drift-ppm"), clock.drift_ppm)?;
    for (key, ppb) in [("wander-ppb", clock.wander_ppb), ("swing-ppb", clock.swing_ppb)] {
        within(&path(key), (0.0..=MAX_PPM * 1e3).contains(&ppb), || format!("must be a rate from 0, not {ppb}"))?;
    }
    let period = clock.swing_period;
    within(&path("swing-period"), period > Span::ZERO, || format!("must be positive, not {period}"))?;
    let granularity = clock.granularity;
    within(&path("granularity"), granularity > Span::ZERO, || format!("must be positive, not {granularity}"))?;
    not_negative(&path("stamp-noise"), clock.stamp_noise)?;
    not_negative(&path("scheduling"), clock.scheduling)
}

fn link_checks(link: &LinkModel) -> Result<(), Mistake> {
    not_negative("link.delay", link.delay)?;
    not_negative("link.jitter", link.jitter)?;
    link.samples
        .iter()
        .enumerate()
        .try_for_each(|(index, sample)| not_negative(&format!("link.samples.{index}"), *sample))?;
    within(
        "link.distribution",
        link.distribution != super::scenario::Distribution::Empirical || !link.samples.is_empty(),
        || "empirical needs `samples`".to_owned(),
    )?;
    within("link.asymmetry", link.asymmetry.abs() <= link.delay, || {
        format!("must not be larger than the delay of {}, not {}", link.delay, link.asymmetry)
    })?;
    let fractions = [
        ("link.loss", link.loss),
        ("link.burst-begin", link.burst_begin),
        ("link.burst-end", link.burst_end),
        ("link.burst-loss", link.burst_loss),
        ("link.duplication", link.duplication),
        ("link.reordering", link.reordering),
        ("link.corruption", link.corruption),
        ("link.truncation", link.truncation),
    ];
    for (path, fraction) in fractions {
        within(path, (0.0..=1.0).contains(&fraction), || format!("must be a fraction from 0 to 1, not {fraction}"))?;
    }
    Ok(())
}

fn within(path: &str, is_fine: bool, fault: impl FnOnce() -> String) -> Result<(), Mistake> {
    if is_fine { Ok(()) } else { Err(Mistake { path: path.to_owned(), fault: fault() }) }
}

fn not_negative(path: &str, span: Span) -> Result<(), Mistake> {
    within(path, span.is_forward(), || format!("must not be negative, as {span} is"))
}

fn rate(path: &str, ppm: f64) -> Result<(), Mistake> {
    within(path, ppm.abs() <= MAX_PPM, || format!("must be a rate from -{MAX_PPM} to {MAX_PPM}, not {ppm}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    fn complaint(text: &str) -> String {
        match ScenarioFile::parse("f.toml".to_owned(), text.to_owned()) {
            Err(complaint) => complaint,
            Ok(file) => mistake(&file.scenario).map(|mistake| file.describe(&mistake)).unwrap_or_default(),
        }
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (text, expected) in [
            ("nodez = 4", "f.toml:1:1: unknown key `nodez`, did you mean `nodes`?"),
            ("[link]\ndelai = '1ms'", "f.toml:2:1: unknown key `delai`, did you mean `delay`?"),
            ("[limits]\nxyz = 1", "f.toml:2:1: unknown key `xyz`, not one of settle, settle-below, "),
            ("nodes = 0", "f.toml:1:9: invalid value: integer `0`, expected a nonzero usize"),
            ("nodes = 'x'", "f.toml:1:9: invalid type: string \"x\", expected a nonzero usize"),
            ("nodes = 20000", "f.toml:1:9: `nodes` must be at most 10000, not 20000"),
            ("about = 'x'\nduration = '-5s'", "f.toml:2:12: `duration` must be positive, not -5.000 s"),
            ("duration = '5'", "f.toml:1:12: the unit must be ns, us, ms, s, min, h or d, as in 250ms"),
            ("duration = 5", "f.toml:1:12: invalid type: integer `5`, expected a string"),
            ("nodes = 4\nliars = 4", "f.toml:2:9: `liars` must be fewer than the 4 nodes, not 4"),
            ("[link]\nloss = 1.5", "f.toml:2:8: `loss` must be a fraction from 0 to 1, not 1.5"),
            ("[link]\nloss = nan", "f.toml:2:8: `loss` must be a fraction"),
            ("[link]\njitter = '-1us'", "f.toml:2:10: `jitter` must not be negative, as -1.000 µs is"),
            ("[link]\nasymmetry = '1ms'", "f.toml:2:13: `asymmetry` must not be larger than the delay of 50.000 µs"),
            ("[link]\nsamples = ['1ms', '-1ms']", "f.toml:2:19: `samples` must not be negative"),
            ("[link]\ndistribution = 'empirical'", "f.toml:2:16: `distribution` empirical needs `samples`"),
            ("[link]\ndistribution = 'parreto'", "f.toml:2:16: unknown value `parreto`, did you mean `pareto`?"),
            ("[clock]\ndrift-ppm = inf", "f.toml:2:13: `drift-ppm` must be a rate"),
            ("[[clocks]]\n[[clocks]]\nwander-ppb = -1.0", "f.toml:3:14: `wander-ppb` must be a rate from 0"),
            ("[node]\ninterval = '1ms'", "f.toml:2:12: `interval` must lie between 62.5ms and 64s"),
            (
                "[[faults]]\nat = '1s'\nwhat = 'crash'\nnodes = [9]",
                "f.toml:4:9: `nodes` must be numbers from 0 to 7, not 9",
            ),
            ("[[faults]]\nat = '1s'\nwhat = 'slow'", "f.toml:3:8: `what` needs `by`"),
            ("[[faults]]\nat = '-1s'\nwhat = 'crash'", "f.toml:2:6: `at` must not be negative"),
            ("[[faults]]\nwhat = 'crash'", "f.toml:1:1: missing field `at`"),
            ("nodes = 2\n[[domains]]\nnumber = 1\nnodes = [0]", "f.toml:2:1: `domains` leave out node 1"),
            (
                "[[domains]]\nnumber = 1\nnodes = [0]\n[[domains]]\nnumber = 1\nnodes = [1]",
                "f.toml:5:10: `number` is given twice: 1",
            ),
            ("[[domains]]\nnumber = 1\nnodes = [0, 8]", "f.toml:3:13: `nodes` must be numbers from 0 to 7, not 8"),
            ("[[domains]]\nnumber = 1\nnodes = []", "f.toml:3:9: `nodes` must not be empty"),
            ("[[faults]]\nat = '1s'\nwhat = 'mute'\ndomain = 3", "f.toml:4:10: `domain` is none of `domains`"),
            ("[limits]\nsettle = '0'", "f.toml:2:10: `settle` must be positive"),
            ("nodes = ", "f.toml:1:"),
            ("nodes = 4\nnodes = 5", "f.toml:2:1: duplicate key"),
            ("", ""),
        ] {
            let found = complaint(text);
            assert!(found.starts_with(expected) && found.is_empty() == expected.is_empty(), "{text}: {found}");
            assert!(!found.contains('\n'), "{found}");
        }
    }

    #[test]
    fn every_scenario_of_the_collection_can_be_run() {
        let mut names = Vec::new();
        for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios")).unwrap() {
            let path = entry.unwrap().path();
            let file = ScenarioFile::read(&path).unwrap_or_else(|complaint| panic!("{complaint}"));
            assert_eq!(mistake(&file.scenario).map(|mistake| file.describe(&mistake)), None);
            assert!(!file.scenario.about.is_empty(), "{} says what it shows", path.display());
            assert!(file.text.starts_with("# "), "{} begins with a comment", path.display());
            assert!(file.scenario.limits != Default::default(), "{} has limits", path.display());
            names.push(path);
        }
        assert!(names.len() >= 15, "{names:?}");
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in any::<String>()) {
            let _ = complaint(&text);
        }
    }
}
