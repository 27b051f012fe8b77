//! The exporter's page in a real browser, beside a real ensemble: what it shows, who can use it, and what it says when somebody dies.
//!
//! `BLESS=1 cargo test --test dashboard -- --ignored` takes the pictures in `docs` anew.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use support::browser::Browser;
use support::lab::{Daemon, Lab, agreed_master};

/// Six nodes, their clocks wrong in various ways, the last one a liar; and their master's number.
fn ensemble(lab: &Lab) -> (Vec<Daemon>, u64) {
    let nodes: Vec<Daemon> = (1..=6)
        .map(|number: i64| {
            let (offset, drift) = (number * 37 - 120, number * 20 - 60);
            let lie = if number == 6 { "--inject-lie 300ms --max-correction 1us --role slave" } else { "--priority 1" };
            lab.join(
                &format!("node{number}"),
                &format!("--node-id {number} --inject-offset {offset}ms --inject-drift {drift} {lie}"),
            )
        })
        .collect();
    let all: Vec<&Daemon> = nodes.iter().collect();
    let master = lab.until("they have a master", || agreed_master(&all));
    (nodes, master)
}

/// Of all but the liar, who runs elsewhere.
fn sockets(nodes: &[Daemon]) -> Vec<&Path> {
    nodes.iter().filter(|node| node.name != "node6").map(|node| node.socket.as_path()).collect()
}

fn shows(lab: &Lab, browser: &Browser, selector: &str, words: &str) {
    let mut last = String::new();
    let deadline = lab.clock.now() + berkeleyd::time::Span::from_secs(60);
    lab.until(&format!("{selector} shows {words:?}"), || {
        last = browser.text(selector);
        assert!(lab.clock.now() < deadline, "{selector} does not show {words:?}: {last}");
        last.contains(words).then_some(())
    });
}

/// Waits until the page has drawn so many looks at a master; how many there are then. The page itself waits: asking it is work for it.
fn looks(browser: &Browser, number: u64) -> u64 {
    let script = "return new Promise((done) => {
        const look = () => {
            const looks = [...model.samples.values()][0]?.length ?? 0;
            if (looks >= NUMBER) done(looks); else setTimeout(look, 200);
        };
        look();
    });";
    browser.run(&script.replace("NUMBER", &number.to_string())).as_u64().expect("a number")
}

/// Pictures are to be taken.
fn is_blessed() -> bool {
    std::env::var_os("BLESS").is_some()
}

/// Writes a picture of the window into `docs`, if that was asked for.
fn keep_picture(browser: &Browser, name: &str) {
    if is_blessed() {
        browser.resize(1280, 1480);
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
        let mut decoder = Command::new("base64");
        let mut child = decoder
            .arg("-d")
            .stdin(Stdio::piped())
            .stdout(fs::File::create(place).expect("a file"))
            .spawn()
            .expect("base64");
        std::io::Write::write_all(&mut child.stdin.take().expect("piped"), browser.picture().as_bytes())
            .expect("it reads");
        assert!(child.wait().expect("a child").success());
    }
}

#[test]
#[ignore = "needs chromium and chromedriver (Debian's chromium-driver)"]
fn a_fail_over_is_seen_as_it_happens() {
    let lab = Lab::new();
    let (mut nodes, master) = ensemble(&lab);
    let (mut exporter, address) = lab.export("exporter", "127.0.0.1:0", &sockets(&nodes));
    let browser = Browser::start(&lab);
    browser.resize(1280, 1000);
    browser.prefer("light");
    browser.open(&format!("http://{address}/"));
    shows(&lab, &browser, "#tiles", &format!("Master\n{master}\n"));
    shows(&lab, &browser, "#caption", "6 nodes");
    shows(&lab, &browser, "#terms", &format!("Term 1: node {master}, from "));
    shows(&lab, &browser, "#rows", "left out: disagrees");
    shows(&lab, &browser, "#verdict", "Synchronised; 1 clock is left out");
    shows(&lab, &browser, "#chart-text", "4 slaves from ");

    // For a picture there has to be something to see.
    looks(&browser, if is_blessed() { 40 } else { 1 });
    let place =
        nodes.iter().position(|node| node.look().is_some_and(|status| status.node_id == master)).expect("the master");
    let dead = nodes.remove(place);
    dead.signal(Signal::SIGKILL);
    let next = lab.until("another master", || agreed_master(&nodes.iter().collect::<Vec<_>>()));
    shows(&lab, &browser, "#tiles", &format!("Master\n{next}\n"));
    shows(&lab, &browser, "#terms", &format!("Term 2: node {next}, from "));
    // Who has not heard of the new term yet still follows the old one.
    lab.until("both terms are told, the former one as over", || {
        let terms = browser.text("#terms");
        let mut former = terms.lines().filter(|line| line.starts_with(&format!("Term 1: node {master}, from ")));
        former.any(|line| line.contains(" until ")).then_some(())
    });
    assert_eq!(browser.run("return document.querySelectorAll('#bars div').length"), 2);
    shows(&lab, &browser, "#events", &format!("master {master} -> {next} term=2"));
    assert_eq!(browser.run("return document.querySelector('#events').getAttribute('aria-live')"), "polite");
    shows(&lab, &browser, "#alerts", &format!("No node answers at {} for ", dead.socket.display()));
    shows(&lab, &browser, "#alerts", "start it again");
    // The new master has some rounds to show.
    looks(&browser, if is_blessed() { 60 } else { 8 });
    shows(&lab, &browser, "#rows", "left out: disagrees");
    keep_picture(&browser, "dashboard.png");
    assert_eq!(browser.complaints(), [""; 0]);

    // Then the exporter: the page stays, and says that it is not of now.
    exporter.signal(Signal::SIGKILL);
    exporter.end(&lab);
    shows(&lab, &browser, "#alerts", "The exporter does not answer for 4 s");
    shows(&lab, &browser, "#alerts", &format!("berkeleyd exporter --listen {address}"));
    shows(&lab, &browser, "#verdict", "Not known");
    assert_eq!(browser.run("return document.querySelectorAll('#alerts .alert').length"), 1);
    // A new one at the same place begins its count anew, and the page with it.
    let _exporter = lab.export("exporter again", &address.to_string(), &sockets(&nodes));
    shows(&lab, &browser, "#verdict", "Synchronised");
    assert_eq!(browser.text("#alerts"), "");
    shows(&lab, &browser, "#tiles", &format!("Master\n{next}\n"));
}

#[test]
#[ignore = "needs chromium and chromedriver (Debian's chromium-driver)"]
fn the_page_is_for_everybody() {
    let lab = Lab::new();
    let (nodes, _) = ensemble(&lab);
    let (_exporter, address) = lab.export("exporter", "127.0.0.1:0", &sockets(&nodes));
    let browser = Browser::start(&lab);
    browser.prefer("light");
    browser.open(&format!("http://{address}/"));
    shows(&lab, &browser, "#caption", "6 nodes");
    shows(&lab, &browser, "#legend", "±");

    // By the keyboard alone: the first stop skips what is above, and whatever has the focus can be seen to have it.
    browser.press("\u{e004}");
    assert_eq!(browser.run("return document.activeElement.className"), "skip");
    let mut stops = Vec::new();
    for _ in 0..40 {
        let stop = browser.run(
            "const e = document.activeElement; return [e.id || e.tagName, getComputedStyle(e).outlineStyle, \
             e.innerText || e.getAttribute('aria-label') || e.labels?.[0]?.innerText || e.getAttribute('aria-labelledby') || '']",
        );
        assert!(stop[1] == "solid" && stop[2] != "", "{stop}");
        stops.push(stop[0].as_str().unwrap_or_default().to_owned());
        browser.press("\u{e004}");
        if browser.run("return document.activeElement === document.body") == true {
            break;
        }
    }
    for wanted in ["theme", "bounds", "range", "pause", "chart", "find"] {
        assert!(stops.iter().any(|stop| stop == wanted), "{wanted}: {stops:?}");
    }
    // The chart can be read without being seen.
    browser.run("document.getElementById('chart').focus()");
    browser.press("\u{e012}\u{e012}");
    shows(&lab, &browser, "#reading", "±");
    assert_ne!(browser.text("#chart-text"), "");
    // The table is one, and says how it is sorted.
    browser.run("document.querySelector('#columns button').click()");
    assert_eq!(browser.run("return document.querySelector('#columns th').getAttribute('aria-sort')"), "ascending");
    let numbers =
        browser.run("return [...document.querySelectorAll('#rows th[scope=row]')].map((cell) => cell.innerText)");
    assert_eq!(numbers, serde_json::json!(["1", "2", "3", "4", "5", "6"]));
    browser.run("const find = document.getElementById('find'); find.value = 'disagrees'; find.dispatchEvent(new Event('input'))");
    shows(&lab, &browser, "#caption", "1 found, 1 in trouble");

    // Both themes, by the system's wish and by the switch, with enough contrast for texts (WCAG: 4.5).
    let ground = "return getComputedStyle(document.body).backgroundColor";
    let light = browser.run(ground);
    browser.prefer("dark");
    let dark = browser.run(ground);
    assert_ne!(light, dark);
    for _ in 0..2 {
        assert!(contrast(&browser) >= 4.5, "{}", contrast(&browser));
        // As the system, light, dark.
        browser.run("document.getElementById('theme').click()");
    }
    assert_eq!(browser.text("#theme"), "Theme: dark");
    browser.prefer("light");
    assert_eq!(browser.run(ground), dark);
    // A telephone: nothing is wider than the window but what can be moved by itself.
    browser.resize(360, 740);
    assert_eq!(browser.run("return document.documentElement.scrollWidth - innerWidth"), 0);
    assert_eq!(browser.complaints(), [""; 0]);
}

/// The least contrast of the colours of texts with that of the panels.
fn contrast(browser: &Browser) -> f64 {
    let script = "
        const pen = document.createElement('canvas').getContext('2d');
        const light = (colour) => {
            pen.fillStyle = colour;
            const part = (i) => { const c = parseInt(pen.fillStyle.slice(1 + 2 * i, 3 + 2 * i), 16) / 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
            return 0.2126 * part(0) + 0.7152 * part(1) + 0.0722 * part(2);
        };
        const probe = document.body.appendChild(document.createElement('i'));
        const of = (name) => { probe.style.color = `var(--${name})`; return light(getComputedStyle(probe).color); };
        const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        const least = Math.min(...['text', 'soft', 'accent', 'good', 'doubt', 'bad'].flatMap((name) => ['panel', 'ground'].map((ground) => ratio(of(name), of(ground)))));
        probe.remove();
        return least;";
    browser.run(script).as_f64().expect("a number")
}

/// A master with so many slaves, made of a real one. Ends with the test.
struct Crowd(Child);

impl Crowd {
    fn of(lab: &Lab, master: &Daemon, slaves: usize, socket: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/crowd.py");
        let mut command = Command::new("python3");
        command
            .arg("-B")
            .arg(script)
            .arg("--of")
            .arg(&master.socket)
            .args(["--slaves", &slaves.to_string()])
            .arg(socket);
        let crowd = Self(command.stdin(Stdio::null()).spawn().expect("python3"));
        lab.until("the crowd is there", || socket.exists().then_some(()));
        crowd
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Tasks of the page that took longer than 50 ms, from its beginning on: when they began and how long they took, in ms. For people to read: how
/// long a task takes depends on what else wants to run, and the first one is the browser's own start.
const LONG_TASKS: &str = "
    return new Promise((found) => {
        const told = (entry) => `${Math.round(entry.duration)} at ${Math.round(entry.startTime)}`;
        new PerformanceObserver((list) => found(list.getEntries().map(told).join(', '))).observe({ type: 'longtask', buffered: true });
        setTimeout(() => found('none'), 500);
    });";
/// A look may not take more of a processor, in ms: people notice.
const LONG: f64 = 100.0;

/// Processor time of the page's main thread so far, in ms: what it would take alone, however busy the machine is.
fn processor_ms(browser: &Browser) -> f64 {
    let metrics = browser.devtools("Performance.getMetrics", &serde_json::json!({}));
    let mut metrics = metrics["metrics"].as_array().expect("a list").iter();
    let tasks = metrics.find(|metric| metric["name"] == "TaskDuration").expect("the sum of all tasks");
    tasks["value"].as_f64().expect("seconds") * 1e3
}

#[test]
#[ignore = "needs chromium and chromedriver (Debian's chromium-driver)"]
fn a_thousand_nodes_do_not_make_it_stumble() {
    let lab = Lab::new();
    let nodes = [lab.join("master", "--role master"), lab.join("slave", "--role slave")];
    lab.until("a slave is listed", || nodes[0].look().filter(|status| !status.peers.is_empty()));
    // The second one has more points than one answer of the exporter takes.
    for (slaves, seen) in [(100, 5), (1_000, 12)] {
        let socket = lab.path(&format!("crowd{slaves}.sock"));
        let _crowd = Crowd::of(&lab, &nodes[0], slaves, &socket);
        let (_exporter, address) = lab.export(&format!("exporter{slaves}"), "127.0.0.1:0", &[&socket]);
        let browser = Browser::start(&lab);
        browser.devtools("Performance.enable", &serde_json::json!({ "timeDomain": "threadTicks" }));
        browser.resize(1280, 1000);
        browser.open(&format!("http://{address}/"));
        shows(&lab, &browser, "#caption", &format!("{} nodes, 1 in trouble", slaves + 1));
        shows(&lab, &browser, "#chart-text", "outside of the picture: 1000006 at +30.0 ms");
        // The first row is who is in trouble; pressed, its line is drawn, and the scale follows.
        browser.run("document.querySelector('#rows button').click()");
        assert!(!browser.text("#chart-text").contains("outside"), "{}", browser.text("#chart-text"));
        browser.run("document.querySelector('#rows button').click()");
        browser.run("document.getElementById('next').click()");
        shows(&lab, &browser, "#place", &format!("101 to {} of {}", (slaves + 1).min(200), slaves + 1));
        let (before, start) = (processor_ms(&browser), looks(&browser, 1));
        let end = looks(&browser, seen.max(start + 3));
        let a_look = (processor_ms(&browser) - before) / f64::from(u32::try_from(end - start).expect("few"));
        let tasks = browser.run(LONG_TASKS);
        eprintln!("{slaves} slaves: {a_look:.0} ms of a processor a look; tasks above 50 ms: {tasks}");
        assert!(a_look < LONG, "{slaves} slaves: {a_look} ms a look");
        // Who comes later sees the same past.
        browser.open(&format!("http://{address}/"));
        looks(&browser, end);
        assert_eq!(browser.complaints(), [""; 0]);
    }
}
