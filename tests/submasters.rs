//! Several domains on 127.0.0.1, with the real binary: ensembles that keep the time of the one above them, through submasters.

#![expect(clippy::expect_used, reason = "what fails here is a broken test or a red one")]

mod support;

use berkeleyd::status::{RoleName, Status, UpperStatus};
use berkeleyd::time::Span;
use nix::sys::signal::Signal;
use support::lab::{Daemon, Lab, ahead, berkeleyd, free_port};

/// The domain above, in a group of its own. That of the lab is below.
struct Above {
    port: u16,
}

impl Above {
    fn new() -> Self {
        Self { port: free_port() }
    }

    /// Starts a node of the ensemble above.
    fn join(&self, lab: &Lab, name: &str, options: &str) -> Daemon {
        let port = self.port;
        lab.start(name, &format!("--bind 127.0.0.1:0 --group 239.255.5.25:{port} --domain 1 {options}"))
    }

    /// Starts a submaster between this domain and the lab's, and waits until it runs: leaves that were there long before it would elect a
    /// master.
    fn lead(&self, lab: &Lab, name: &str, options: &str) -> Daemon {
        let port = self.port;
        let above = format!("--upper-domain 1 --upper-bind 127.0.0.1:0 --upper-group 239.255.5.25:{port}");
        let submaster = lab.join(name, &format!("--role master {above} {options}"));
        submaster.address(lab);
        submaster
    }
}

fn upper(status: &Status) -> &UpperStatus {
    status.upper.as_deref().expect("a submaster")
}

#[test]
fn leaves_keep_the_time_of_the_ensemble_above() {
    let (lab, above) = (Lab::new(), Above::new());
    let root = [
        above.join(&lab, "root1", "--inject-offset 40ms --inject-drift 20"),
        above.join(&lab, "root2", "--inject-offset -3s --inject-drift -60"),
    ];
    let submaster = above.lead(&lab, "submaster", "--inject-offset 700ms --inject-drift 30 --node-id 7");
    let leaves = [
        lab.join("leaf1", "--inject-offset -1s --inject-drift -100"),
        lab.join("leaf2", "--role slave --inject-offset 90min --inject-drift 100"),
    ];
    let all: Vec<&Daemon> = root.iter().chain([&submaster]).chain(&leaves).collect();
    let statuses = lab.agree(&all);
    let status = statuses.get(2).expect("the submaster");
    assert_eq!((status.role, status.peers.len()), (RoleName::Master, 2));
    assert_eq!((upper(status).state.as_str(), upper(status).node.domain, upper(status).node.node_id), ("heard", 1, 7));
    // Whatever it shows above it shows below, but for the last digits of two lines.
    assert!(upper(status).offset_ns.abs() < 1_000, "{}", upper(status).offset_ns);
    for leaf in &leaves {
        assert_eq!((leaf.status().master_id, leaf.status().upper), (Some(7), None));
    }
    let human = berkeleyd(&["status", "--socket", submaster.socket.to_str().expect("UTF-8")]);
    let human = String::from_utf8(human.stdout).expect("UTF-8");
    assert!(human.contains("above        domain 1 heard: ") && human.contains("this clock "), "{human}");
    assert!(submaster.log().contains(" domain=1\n"), "lines say which domain they are about");
}

/// Clocks below are measured from the start, and not moved before there is a time to move them to: so the first correction, which may
/// step, is the right one.
#[test]
fn nobody_below_is_corrected_before_the_ensemble_above_tells_the_time() {
    let (lab, above) = (Lab::new(), Above::new());
    let submaster = above.lead(&lab, "submaster", "--inject-offset 700ms");
    let leaf = lab.join("leaf", "--inject-offset -5s");
    lab.until("the leaf is measured", || (submaster.look()?.peers.len() == 1).then_some(()));
    lab.while_announcing(&submaster, 20);
    let status = submaster.status();
    assert_eq!((upper(&status).state.as_str(), status.synchronised, status.adjustment), ("awaited", false, 0));
    assert_eq!((leaf.status().adjustment, leaf.status().master_id), (0, Some(status.node_id)));
    assert!(submaster.log().contains("waiting for the domain above: "), "{}", submaster.log());

    let root = [above.join(&lab, "root1", ""), above.join(&lab, "root2", "")];
    lab.agree(&[&submaster, &leaf, &root[0], &root[1]]);
    // Two clocks of the three above are right, and so everybody is.
    assert!(ahead(&leaf.status()).abs() < Span::from_millis(1), "{}", ahead(&leaf.status()));
    assert!(leaf.log().matches("stepped by=").count() == 1, "{}", leaf.log());
}

#[test]
fn an_ensemble_whose_upper_domain_is_lost_holds_over_until_it_comes_back() {
    let (lab, above) = (Lab::new(), Above::new());
    let root = above.join(&lab, "root", "--inject-drift 50");
    let submaster = above.lead(&lab, "submaster", "--interval 250ms");
    let leaf = lab.join("leaf", "--inject-offset 1s");
    lab.agree(&[&root, &submaster, &leaf]);
    root.signal(Signal::SIGKILL);
    lab.until("the domain above is given up", || (upper(&submaster.look()?).state == "lost").then_some(()));
    let rounds = submaster.status().round;
    lab.until("rounds below go on", || (submaster.look()?.round > rounds + 4).then_some(()));
    let statuses = lab.agree(&[&submaster, &leaf]);
    assert!(ahead(&statuses[0]).abs() < Span::from_millis(1), "as it was");

    let root = above.join(&lab, "root", "--inject-offset 3ms");
    lab.until("it is heard again", || (upper(&submaster.look()?).state == "heard").then_some(()));
    lab.agree(&[&root, &submaster, &leaf]);
}

/// The files of docs/tiers.md, each on its own.
#[test]
fn the_example_has_no_mistakes() {
    let lab = Lab::new();
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/tiers.md")).expect("it is there");
    let blocks: Vec<&str> =
        text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
    assert_eq!(blocks.len(), 3, "bridge, gateway, leaf");
    for block in blocks {
        let file = lab.path("example.toml");
        std::fs::write(&file, block).expect("written");
        let output = berkeleyd(&["check-config", file.to_str().expect("UTF-8")]);
        assert_eq!(output.status.code(), Some(0), "{block}{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_other_submaster_takes_over_when_one_dies() {
    let (lab, above) = (Lab::new(), Above::new());
    let root = above.join(&lab, "root", "--inject-offset 100ms");
    let submasters = [above.lead(&lab, "submaster1", "--node-id 1"), above.lead(&lab, "submaster2", "--node-id 2")];
    let leaf = lab.join("leaf", "--inject-offset 1s");
    let all = [&root, &submasters[0], &submasters[1], &leaf];
    lab.agree(&all);
    let master = lab.until("one of them is master", || {
        let roles = [submasters[0].look()?.role, submasters[1].look()?.role];
        let masters = roles.iter().filter(|role| **role == RoleName::Master).count();
        (masters == 1).then(|| roles.iter().position(|role| *role == RoleName::Master)).flatten()
    });
    let (lost, other) = (&submasters[master], &submasters[1 - master]);
    lab.until("the leaf follows it", || (leaf.look()?.master_id == Some(lost.look()?.node_id)).then_some(()));
    lost.signal(Signal::SIGKILL);
    let heir = other.status().node_id;
    lab.until("the leaf follows the other", || (leaf.look()?.master_id == Some(heir)).then_some(()));
    let (adjustment, before) = (leaf.status().adjustment, ahead(&leaf.status()));
    lab.until("which corrects it", || (leaf.look()?.adjustment > adjustment).then_some(()));
    assert!((ahead(&leaf.status()) - before).abs() < Span::from_millis(1), "without a jump");
    lab.agree(&[&root, other, &leaf]);
}
