//! How to run a node: what its settings have come to, which of them a running node can still change, and what each of them is, to be told.
//!
//! [`RunConfig::renewed`] is the one place that decides what takes another start: all that it does not take over. The annotated example
//! (`contrib/berkeleyd.toml`) and the help say the same, which tests compare.

use std::fmt::Display;
use std::path::PathBuf;

use clap::ValueEnum;
use log::LevelFilter;

use crate::config::{CorrectionPolicy, NodeConfig, Role};
use crate::identity::NodeId;
use crate::net::{Addresses, Timestamping};
use crate::privileges::{Measure, UserName};
use crate::time::{Skew, Span};

/// How to run a node. Free of contradictions.
#[derive(Clone, Debug, PartialEq)]
pub struct RunConfig {
    /// The settings of the core, complete but for the identity.
    pub node: NodeDraft,
    /// Where it listens and what group it hears.
    pub addresses: Addresses,
    /// On a submaster: the same of its node in the domain above.
    pub upper: Option<(NodeDraft, Addresses)>,
    /// Who stamps what arrives and leaves.
    pub timestamping: Timestamping,
    /// Which clock is corrected.
    pub clock: ClockKind,
    /// How far a virtual clock is ahead at the start.
    pub inject_offset: Span,
    /// How fast it runs.
    pub inject_drift: Skew,
    /// Where its status is shown; `None`: at the first place that it can write to.
    pub status_socket: Option<PathBuf>,
    /// Where drift and identity are kept.
    pub state_dir: Option<PathBuf>,
    /// The keys that frames are authenticated with; `None`: they are not.
    pub key_file: Option<PathBuf>,
    /// On a submaster: those of the domain above.
    pub upper_key_file: Option<PathBuf>,
    /// Who to become once nothing takes more; `None`: nobody else.
    pub user: Option<UserName>,
    /// The protections of the process to leave out.
    pub without: Vec<Measure>,
    /// How much is logged unless `RUST_LOG` says otherwise.
    pub log_level: LevelFilter,
    /// For whom.
    pub log_format: LogFormat,
}

/// Which clock is corrected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ClockKind {
    /// One kept in user space: the machine's clock is read, never set.
    #[default]
    Virtual,
    /// The machine's.
    System,
}

/// For whom the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: an object a line.
    Json,
}

/// The settings of a node that may not know its number yet: it can be kept in a state directory, or be drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeDraft {
    given: Option<NodeId>,
    /// Valid but for the number.
    config: NodeConfig,
}

impl NodeDraft {
    /// `given`: the number, if the operator has given one; then `config` has it.
    pub(crate) fn new(given: Option<NodeId>, config: NodeConfig) -> Self {
        Self { given, config }
    }

    /// The number given by the operator.
    pub fn node_id(&self) -> Option<NodeId> {
        self.given
    }

    /// The settings of a node with the number given, else with `otherwise`, which must not be zero.
    pub fn into_config(self, otherwise: NodeId) -> NodeConfig {
        NodeConfig { node_id: self.given.unwrap_or(otherwise), ..self.config }
    }

    /// The settings, the number aside.
    pub(crate) fn config(&self) -> &NodeConfig {
        &self.config
    }

    fn renewed(&self, wanted: &Self) -> Self {
        Self { given: self.given, config: self.config.renewed(&wanted.config) }
    }
}

/// A setting that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// As on the command line without its dashes.
    pub(crate) setting: &'static str,
    pub(crate) from: String,
    pub(crate) to: String,
}

impl RunConfig {
    /// What a process that runs with these settings makes of `wanted`: all of it but what was decided at its start.
    pub(crate) fn renewed(&self, wanted: &Self) -> Self {
        let above = |(own, addresses): &(NodeDraft, Addresses)| {
            let renewed = wanted.upper.as_ref().map_or_else(|| own.clone(), |(wanted, _)| own.renewed(wanted));
            (renewed, addresses.clone())
        };
        Self {
            node: self.node.renewed(&wanted.node),
            upper: self.upper.as_ref().map(above),
            log_level: wanted.log_level,
            ..self.clone()
        }
    }

    /// The settings that are others in `other`, in the order of the help.
    pub(crate) fn changes(&self, other: &Self) -> Vec<Change> {
        let pairs = self.shown().into_iter().zip(other.shown());
        let changed = pairs.filter(|(own, other)| own.1 != other.1);
        changed.map(|((setting, from), (_, to))| Change { setting, from, to }).collect()
    }

    /// Every setting, and what it has come to.
    fn shown(&self) -> Vec<(&'static str, String)> {
        // Taken apart, so that a field that is added cannot be forgotten here.
        let Self { node, addresses, upper, timestamping, clock, inject_offset, inject_drift, .. } = self;
        let Self { status_socket, state_dir, key_file, upper_key_file, user, without, log_level, log_format, .. } =
            self;
        let NodeDraft { given, config } = node;
        let NodeConfig { domain, role, priority, preempt, quorum, peers, lie, max_slaves, .. } = config;
        let NodeConfig { interval, min_interval, max_interval, average, weights, gamma, policy, .. } = config;
        let NodeConfig { node_id: _, upper: upper_domain, is_reference, group: _, delay_asymmetries, .. } = config;
        let CorrectionPolicy { max_slew, step_threshold, allow_step, max_correction } = policy;
        let above = upper.as_ref().map(|(draft, addresses)| (&draft.config, addresses));
        let path = |path: &Option<PathBuf>| or_none(path.as_ref().map(|path| path.display()));
        let pairs = |who: &dyn Display, what: &dyn Display| format!("{who}={what}");
        vec![
            ("role", role_name(*role)),
            ("domain", domain.to_string()),
            ("bind", addresses.bind.to_string()),
            ("interface", or_none(addresses.interface.as_ref())),
            ("group", or_none(addresses.group)),
            ("peer", list(peers)),
            ("timestamping", format!("{timestamping:?}").to_lowercase()),
            ("delay-asymmetry", list(delay_asymmetries.iter().map(|(who, span)| pairs(who, span)))),
            ("max-slaves", max_slaves.to_string()),
            ("upper-domain", or_none(*upper_domain)),
            ("upper-role", or_none(above.map(|(config, _)| role_name(config.role)))),
            ("upper-bind", or_none(above.map(|(_, addresses)| addresses.bind))),
            ("upper-interface", or_none(above.and_then(|(_, addresses)| addresses.interface.as_ref()))),
            ("upper-group", or_none(above.and_then(|(_, addresses)| addresses.group))),
            ("upper-peer", list(above.iter().flat_map(|(config, _)| &config.peers))),
            ("upper-key-file", path(upper_key_file)),
            ("clock", name(*clock)),
            ("inject-offset", inject_offset.to_string()),
            ("inject-drift", inject_drift.to_string()),
            ("inject-lie", lie.to_string()),
            ("interval", interval.to_string()),
            ("min-interval", min_interval.to_string()),
            ("max-interval", max_interval.to_string()),
            ("average", average.to_string()),
            ("weight", list(weights.iter().map(|(who, weight)| pairs(who, weight)))),
            ("gamma", gamma.to_string()),
            ("reference", (*is_reference || above.is_some_and(|(config, _)| config.is_reference)).to_string()),
            ("max-slew", max_slew.to_string()),
            ("step-threshold", step_threshold.to_string()),
            ("allow-step", allow_step.to_string()),
            ("max-correction", or_none(*max_correction)),
            ("priority", priority.to_string()),
            ("preempt", preempt.to_string()),
            ("quorum", quorum.to_string()),
            ("node-id", or_none(*given)),
            ("state-dir", path(state_dir)),
            ("key-file", path(key_file)),
            ("status-socket", path(status_socket)),
            ("user", or_none(user.as_ref())),
            ("without", list(without.iter().map(|measure| name(*measure)))),
            ("log-level", log_level.to_string().to_lowercase()),
            ("log-format", name(*log_format)),
        ]
    }
}

fn or_none(value: Option<impl Display>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn list(values: impl IntoIterator<Item = impl Display>) -> String {
    let shown: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    or_none(Some(shown.join(",")).filter(|shown| !shown.is_empty()))
}

fn name(choice: impl ValueEnum) -> String {
    or_none(choice.to_possible_value().map(|value| value.get_name().to_owned()))
}

fn role_name(role: Role) -> String {
    format!("{role:?}").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check_config::check_text;
    use crate::config_file::parse;
    use crate::settings::file_command;
    use std::collections::BTreeMap;

    /// The annotated example.
    fn example() -> String {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/berkeleyd.toml");
        std::fs::read_to_string(path).unwrap()
    }

    /// Its settings, each without the `#` in front: name, line, and what is noted behind it.
    fn settings() -> Vec<(String, String, String)> {
        let example = example();
        let lines =
            example.lines().filter_map(|line| line.strip_prefix('#').filter(|line| !line.starts_with([' ', '#'])));
        let setting = |line: &str| {
            let (name, note) = (line.split(" =").next().unwrap(), line.split("  # ").nth(1).unwrap_or_default());
            (name.to_owned(), line.to_owned(), note.to_owned())
        };
        lines.filter(|line| !line.is_empty()).map(setting).collect()
    }

    fn resolved(text: &str) -> RunConfig {
        let settings = parse("f".to_owned(), text).unwrap_or_else(|mistakes| panic!("{mistakes:?} in {text}")).0;
        settings.resolve(None).unwrap_or_else(|faults| panic!("{faults:?} in {text}"))
    }

    /// What a setting needs beside it in a file.
    fn company(name: &str) -> &'static str {
        match name {
            "upper-domain" => "role = 'master'\ndomain = 7\n",
            "upper-peer" => "role = 'master'\ndomain = 7\nupper-domain = 0\nupper-group = '239.255.5.25:5525'\n",
            _ if name.starts_with("upper-") => "role = 'master'\ndomain = 7\nupper-domain = 0\n",
            // Only where there is one already does another one leave the group alone.
            "peer" => "group = '239.255.5.25:5525'\n",
            _ => "",
        }
    }

    #[test]
    fn the_example_has_every_setting_in_the_order_of_the_help() {
        let expected: Vec<String> = file_command()
            .get_arguments()
            .filter(|setting| !setting.is_hide_set())
            .filter_map(|setting| setting.get_long().map(str::to_owned))
            .collect();
        let found: Vec<String> = settings().into_iter().map(|(name, ..)| name).collect();
        assert_eq!(found, expected, "contrib/berkeleyd.toml");
    }

    #[test]
    fn the_example_is_sound_with_and_without_its_settings() {
        let check = |text: &str| check_text("example".to_owned(), text);
        assert_eq!(check(&example()), Ok(()));
        let lines = settings();
        let text = |is_wanted: fn(&str) -> bool| {
            let wanted = lines.iter().filter(|(name, ..)| is_wanted(name));
            wanted.map(|(_, line, _)| format!("{line}\n")).collect::<String>()
        };
        assert_eq!(check(&text(|name| !name.starts_with("upper-"))), Ok(()));
        // With all of them it is a submaster, which takes what the heading says.
        let appoint = |text: String, from: &str, to: &str| text.replacen(from, to, 1);
        let submaster = appoint(text(|_| true), "role = \"auto\"", "role = \"master\"");
        let submaster = appoint(submaster, "domain = 0", "domain = 7");
        // The port belongs to one of the two domains.
        assert_eq!(check(&appoint(submaster, "0.0.0.0:5525", "0.0.0.0:0")), Ok(()));
    }

    #[test]
    fn what_the_example_calls_a_default_is_the_default() {
        let mut defaults = 0;
        for (name, line, note) in settings().iter().filter(|(.., note)| !note.contains("example")) {
            let company = company(name);
            assert_eq!(resolved(&format!("{company}{line}")), resolved(company), "{name}: {note}");
            defaults += 1;
        }
        assert!(defaults > 24, "{defaults}");
    }

    /// The settings that the help names for SIGHUP.
    fn changed_by_sighup() -> Vec<String> {
        let help = crate::cli::command().get_after_help().unwrap().to_string();
        let list = help.split_once("all but ").unwrap().1.replace("and ", "");
        list.split([',', '(', '\n']).map(|name| name.trim().to_owned()).collect()
    }

    /// One value of each setting that is not the default, nor what [`company`] says.
    fn others() -> BTreeMap<&'static str, &'static str> {
        BTreeMap::from([
            ("role", "'slave'"),
            ("domain", "9"),
            ("bind", "'127.0.0.1:0'"),
            ("interface", "'lo'"),
            ("group", "'239.1.1.1:1'"),
            ("peer", "['192.0.2.1:1']"),
            ("timestamping", "'user'"),
            ("delay-asymmetry", "['1us']"),
            ("max-slaves", "5"),
            ("upper-domain", "1"),
            ("upper-role", "'slave'"),
            ("upper-bind", "'127.0.0.1:0'"),
            ("upper-interface", "'lo'"),
            ("upper-group", "'239.1.1.1:1'"),
            ("upper-peer", "['192.0.2.1:1']"),
            ("upper-key-file", "'k'"),
            ("clock", "'system'"),
            ("inject-offset", "'1s'"),
            ("inject-drift", "1"),
            ("inject-lie", "'1s'"),
            ("interval", "'500ms'"),
            ("min-interval", "'250ms'"),
            ("max-interval", "'4s'"),
            ("average", "'mean'"),
            ("weight", "['7=3']"),
            ("gamma", "'1ms'"),
            ("reference", "true"),
            ("max-slew", "100"),
            ("step-threshold", "'1ms'"),
            ("allow-step", "true"),
            ("max-correction", "'1s'"),
            ("priority", "7"),
            ("preempt", "true"),
            ("quorum", "2"),
            ("node-id", "7"),
            ("state-dir", "'d'"),
            ("key-file", "'k'"),
            ("status-socket", "'s'"),
            ("user", "'1:1'"),
            ("without", "['seccomp']"),
            ("log-level", "'debug'"),
            ("log-format", "'json'"),
        ])
    }

    #[test]
    fn every_setting_that_changes_is_told_and_the_example_says_which_need_a_restart() {
        let notes: BTreeMap<String, String> = settings().into_iter().map(|(name, _, note)| (name, note)).collect();
        let others = others();
        let help = changed_by_sighup();
        for setting in file_command().get_arguments() {
            let name = setting.get_long().unwrap();
            let other = others.get(name).unwrap_or_else(|| panic!("{name} is new: give it another value here"));
            let company = company(name);
            let own = resolved(company);
            let wanted = resolved(&format!("{company}{name} = {other}"));
            let renewed = own.renewed(&wanted);
            let names = |changes: Vec<Change>| changes.iter().map(|change| change.setting).collect::<Vec<_>>();
            assert!(names(own.changes(&wanted)).contains(&name), "{name} changes, and nobody is told");
            let (changed, pending) = (names(own.changes(&renewed)), names(renewed.changes(&wanted)));
            let is_live = changed.contains(&name);
            assert_ne!(is_live, pending.contains(&name), "{name}: {changed:?}, {pending:?}");
            let Some(note) = notes.get(name) else {
                assert!(setting.is_hide_set() && !is_live, "{name}");
                continue;
            };
            assert!(note.starts_with(if is_live { "reload" } else { "restart" }), "{name}: {note}");
            assert_eq!(help.contains(&name.to_owned()), is_live, "{name} in the help on SIGHUP: {help:?}");
            assert_eq!(own.renewed(&own), own);
        }
    }

    #[test]
    fn the_first_peer_and_the_last_one_take_a_restart_with_the_group() {
        let (none, one) = (resolved(""), resolved("peer = ['192.0.2.1:1']"));
        for (own, wanted) in [(&none, &one), (&one, &none)] {
            let renewed = own.renewed(wanted);
            assert_eq!(renewed, *own);
            let pending: Vec<_> = renewed.changes(wanted).iter().map(|change| change.setting).collect();
            assert_eq!(pending, ["group", "peer"]);
        }
    }
}
