//! `berkeleyd exporter` beside real nodes: what it tells Prometheus, whom it answers, and that nobody who is slow or dead holds the
//! others up. The page is in tests/dashboard.rs.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use nix::sys::signal::Signal;
use serde_json::Value;
use support::http::{ask, exchange, get};
use support::lab::{Daemon, Lab, berkeleyd};

const OPEN_METRICS: &str = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";

/// A master with one slave, and an exporter that has seen both and the slave in the master's table.
fn pair(lab: &Lab) -> ([Daemon; 2], Daemon, SocketAddr) {
    let nodes = [lab.join("master", "--role master"), lab.join("slave", "--role slave")];
    lab.agree(&[&nodes[0], &nodes[1]]);
    let (exporter, address) = lab.export("exporter", "127.0.0.1:0", &[&nodes[0].socket, &nodes[1].socket]);
    // The nodes are looked at one after the other: what the first says of its slave is shown before the second has been asked.
    lab.until("both nodes and the slave are shown", || {
        let text = get(address, "/metrics").body;
        let up = numbers(&text, "berkeleyd_up").into_values().filter(|&up| up > 0.0).count();
        (up == nodes.len() && text.contains("berkeleyd_peer_offset_seconds{")).then_some(())
    });
    (nodes, exporter, address)
}

/// The numbers of one metric, by all of its labels.
fn numbers(text: &str, metric: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(metric)?.strip_prefix('{')?.split_once("} "));
    lines.map(|(labels, number)| (labels.to_owned(), number.parse().expect("a number"))).collect()
}

fn within_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text_of(path: &str) -> String {
    fs::read_to_string(within_repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn metrics_say_what_the_status_says() {
    let lab = Lab::new();
    let ([master, slave], _exporter, address) = pair(&lab);
    let text = get(address, "/metrics").body;
    let status = master.status();
    let of = |node: &Daemon| format!("socket=\"{}\"", node.socket.display());
    let node = |node: &Daemon| format!("{},domain=\"{}\"", of(node), status.domain);
    assert_eq!(numbers(&text, "berkeleyd_up"), [(of(&master), 1.0), (of(&slave), 1.0)].into());
    assert_eq!(numbers(&text, "berkeleyd_synchronised"), [(node(&master), 1.0), (node(&slave), 1.0)].into());
    #[expect(clippy::cast_precision_loss, reason = "numbers of nodes have 48 bits")]
    let expected = status.node_id as f64;
    let masters = numbers(&text, "berkeleyd_master_node_id");
    assert_eq!(masters, [(node(&master), expected), (node(&slave), expected)].into());
    let roles = numbers(&text, "berkeleyd_role");
    let leads = [&master, &slave].map(|one| roles.get(&format!("{},role=\"master\"", node(one))).copied());
    assert_eq!(leads, [Some(1.0), Some(0.0)]);
    let peer = format!("{},peer=\"{}\"", node(&master), slave.status().node_id);
    let bound = numbers(&text, "berkeleyd_peer_error_bound_seconds")[&peer];
    assert!(bound > 0.0 && bound < 0.1, "seconds, not nanoseconds: {bound}");
    assert_eq!(numbers(&text, "berkeleyd_peer_counted").keys().collect::<Vec<_>>(), [&peer]);
    let sent = numbers(&text, "berkeleyd_sent_frames_total");
    assert!(sent[&format!("{},type=\"request\"", node(&master))] >= 1.0);

    let reply = ask(address, "GET", "/metrics", OPEN_METRICS, "");
    assert!(reply.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", reply.head);
    assert!(reply.body.ends_with("# EOF\n") && reply.body.contains("# UNIT berkeleyd_peer_offset_seconds seconds\n"));
    let samples = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.split_once('{').map(|(name, _)| name.to_owned())).collect()
    };
    assert_eq!(samples(&reply.body), samples(&text), "both formats tell the same");
}

/// Whatever can be told is declared, also what this ensemble has none of.
fn declared(text: &str) -> BTreeSet<String> {
    let declarations = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    declarations.map(|(name, _)| name.to_owned()).collect()
}

/// All words of a text that are names of metrics.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("berkeleyd_")).map(str::to_owned).collect()
}

#[test]
fn rules_dashboard_and_document_name_only_what_there_is_and_the_document_all_of_it() {
    let lab = Lab::new();
    let (_nodes, _exporter, address) = pair(&lab);
    let declared = declared(&get(address, "/metrics").body);
    for file in ["contrib/prometheus/berkeleyd.rules.yml", "contrib/grafana/berkeleyd.json", "docs/monitoring.md"] {
        let named = named(&text_of(file));
        let unknown: Vec<_> = named.difference(&declared).collect();
        assert!(!named.is_empty() && unknown.is_empty(), "{file}: {unknown:?} are no metrics");
    }
    let document = named(&text_of("docs/monitoring.md"));
    let missing: Vec<_> = declared.difference(&document).collect();
    assert!(missing.is_empty(), "docs/monitoring.md does not tell of {missing:?}");
    let dashboard: Value = serde_json::from_str(&text_of("contrib/grafana/berkeleyd.json")).expect("JSON");
    assert!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() > 5));
}

fn promtool(arguments: &[&str], input: &str) {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("promtool (Debian: prometheus): {error}"));
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    // It finds fault with names and units without failing.
    assert!(arguments != ["check", "metrics"] || said.trim().is_empty(), "{said}");
}

#[test]
#[ignore = "needs promtool (Debian's prometheus)"]
fn promtool_finds_no_fault() {
    let lab = Lab::new();
    let (_nodes, _exporter, address) = pair(&lab);
    promtool(&["check", "metrics"], &get(address, "/metrics").body);
    let file = |name| within_repository(name).display().to_string();
    promtool(&["check", "rules", &file("contrib/prometheus/berkeleyd.rules.yml")], "");
    promtool(&["test", "rules", &file("contrib/prometheus/berkeleyd.rules.test.yml")], "");
}

#[test]
fn whoever_asks_wrongly_is_told_so() {
    let lab = Lab::new();
    let (mut exporter, address) = lab.export("exporter", "127.0.0.1:0", &[&lab.path("nobody.sock")]);
    let status = |method: &str, path: &str, headers: &str| ask(address, method, path, headers, "").status;
    assert_eq!(status("GET", "/", ""), 200);
    assert_eq!(get(address, "/healthz").body, "ok\n");
    for path in ["/nothing", "/metrics/", "/../../etc/passwd", "/api", "/%00"] {
        assert_eq!(status("GET", path, ""), 404, "{path}");
    }
    for query in ["?after=x", "?after=", "?before=1", "?after=1&after=2"] {
        assert_eq!(status("GET", &format!("/api/nodes{query}"), ""), 400, "{query}");
    }
    assert_eq!(status("GET", "/api/nodes?after=-9223372036854775808", ""), 200);
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let reply = ask(address, method, "/metrics", "", "whatever");
        assert!(reply.status == 405 && reply.head.contains("allow: get, head"), "{method}: {reply:?}");
    }
    let head = ask(address, "HEAD", "/metrics", "", "");
    assert!(head.status == 200 && head.body.is_empty() && !head.head.contains("content-length: 0"), "{head:?}");
    // A name of somebody else's that leads here: his page could read the answer.
    for host in ["evil.example", "evil.example:80", "localhost.evil.example", "", "[::1"] {
        assert_eq!(status("GET", "/metrics", &format!("Host: {host}\r\n")), 421, "{host}");
    }
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:9525"] {
        assert_eq!(status("GET", "/metrics", &format!("Host: {host}\r\n")), 200, "{host}");
    }
    assert_eq!(exchange(address, b"GET /metrics HTTP/1.0\r\n\r\n").expect("an answer").status, 421);
    for rubbish in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
    {
        let status = exchange(address, rubbish).map(|reply| reply.status);
        assert!(matches!(status, Ok(400) | Err(_)), "{rubbish:?}: {status:?}");
    }
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    let status = exchange(address, long.as_bytes()).map(|reply| reply.status);
    assert!(matches!(status, Ok(431) | Err(_)), "{status:?}");
    assert_eq!(get(address, "/healthz").status, 200, "and it goes on");
    exporter.signal(Signal::SIGTERM);
    assert_eq!(exporter.end(&lab).0, Some(0));
}

#[test]
fn the_page_is_one_file_that_asks_nobody_else() {
    let lab = Lab::new();
    let (_exporter, address) = lab.export("exporter", "127.0.0.1:0", &[&lab.path("nobody.sock")]);
    let (reply, again) = (get(address, "/"), get(address, "/"));
    let policy = reply.head.lines().find(|line| line.starts_with("content-security-policy")).expect("a policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    let (_, nonce) = policy.split_once("script-src 'nonce-").expect("a nonce");
    let nonce = nonce.split('\'').next().expect("its end");
    assert!(reply.body.contains(&format!("<script nonce=\"{nonce}\">")) && !again.body.contains(nonce));
    for foreign in ["http://", "https://", "src=\"", "@import", "url(", "{nonce}", " style=\"", " onclick="] {
        assert!(!reply.body.contains(foreign), "{foreign}");
    }
}

#[test]
fn slow_and_dead_clients_hold_nobody_up() {
    let lab = Lab::new();
    let (_exporter, address) = lab.export("exporter", "127.0.0.1:0", &[&lab.path("nobody.sock")]);
    let connect = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.write_all(bytes).expect("it takes some bytes");
        stream
    };
    // More than are served at the same time: some say nothing, some never end, some never read what they asked for.
    let asked = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200);
    let kinds: [&[u8]; 3] = [b"", b"GET / HTTP/1.1\r\nHost: loc", &asked];
    let kept: Vec<TcpStream> = (0..300).map(|index| connect(kinds[index % kinds.len()])).collect();
    for _ in 0..20 {
        assert_eq!(get(address, "/healthz").status, 200);
    }
    drop(kept);
    assert_eq!(get(address, "/healthz").status, 200);
}

/// What the JSON says of the node behind a socket.
fn node(address: SocketAddr, socket: &Path) -> Option<Value> {
    let answer: Value = serde_json::from_str(&get(address, "/api/nodes").body).expect("JSON");
    let is_it = |node: &&Value| node["socket"].as_str() == socket.to_str();
    answer["nodes"].as_array().expect("a list").iter().find(is_it).cloned()
}

#[test]
fn sockets_that_are_dead_slow_or_foreign_are_told_and_hold_no_other_up() {
    let lab = Lab::new();
    let master = lab.join("master", "--role master");
    lab.until("it runs", || master.look());
    let [missing, hanging, dripping, older] = ["missing", "hanging", "dripping", "older"].map(|name| lab.path(name));
    let _hanging = UnixListener::bind(&hanging).expect("a socket");
    let speak = |path: &Path, speech: fn(&mut dyn Write)| {
        let listener = UnixListener::bind(path).expect("a socket");
        thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(|mut stream| speech(&mut stream)));
    };
    speak(&dripping, |stream| {
        while stream.write_all(b" ").is_ok() {
            thread::park_timeout(std::time::Duration::from_millis(100));
        }
    });
    speak(&older, |stream| drop(stream.write_all(b"{\"version\": \"0.0.9\"}\n")));
    let sockets = [&master.socket, &missing, &hanging, &dripping, &older].map(PathBuf::as_path);
    let (mut exporter, address) = lab.export("exporter", "127.0.0.1:0", &sockets);

    let reason = |socket: &Path| node(address, socket)?["silence"]["reason"].as_str().map(str::to_owned);
    for (socket, words) in [
        (&missing, "there is no status socket"),
        (&hanging, "does not answer: it is stopped or overloaded"),
        (&dripping, "does not answer: it is stopped or overloaded"),
        (&older, "has version 0.0.9"),
    ] {
        let told = lab.until("it is told what is wrong", || reason(socket));
        assert!(told.contains(words), "{told}");
    }
    let up = numbers(&get(address, "/metrics").body, "berkeleyd_up");
    let expected = sockets
        .map(|socket| (format!("socket=\"{}\"", socket.display()), f64::from(u8::from(socket == master.socket))));
    assert_eq!(up, expected.into());

    // One that comes is found, one that goes is missed and remembered.
    let late = lab.launch("missing", Command::new(support::lab::BINARY), &format!("{} --role slave", lab.group()));
    fs::remove_file(&missing).err();
    std::os::unix::fs::symlink(&late.socket, &missing).expect("a link");
    lab.until("it is found", || {
        node(address, &missing).filter(|node| node["silence"].is_null() && !node["status"].is_null())
    });
    late.signal(Signal::SIGKILL);
    let gone = lab.until("it is missed", || node(address, &missing).filter(|node| !node["silence"].is_null()));
    assert!(gone["status"]["role"] == "slave" && gone["happenings"].to_string().contains("no answer"), "{gone}");
    exporter.signal(Signal::SIGINT);
    let (code, log, _) = exporter.end(&lab);
    assert_eq!(code, Some(0), "{log}");
    assert!(log.lines().count() < 20, "a silence is told once: {log}");
}

#[test]
fn what_keeps_it_from_starting_is_told_in_one_line() {
    let lab = Lab::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("its address");
    for (arguments, code, words) in [
        (vec!["--listen", &taken.to_string()], 1, "another program has this port"),
        (vec!["--listen", "192.0.2.1:9525"], 1, "no such address"),
        (vec!["--listen", "localhost"], 2, "invalid value 'localhost' for '--listen"),
        (vec!["--socket", "/x"], 2, "--listen"),
        (vec!["--listen", "127.0.0.1:0", "--set", "1"], 2, "unexpected argument '--set'"),
    ] {
        let output = berkeleyd(&[&["exporter"], arguments.as_slice()].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{arguments:?}: {text}");
        assert!(
            text.starts_with("berkeleyd: ") && text.lines().count() == 1 && text.contains(words),
            "{arguments:?}: {text}"
        );
    }
    // Whoever opens the page to all is told so.
    let (exporter, _) = lab.export("open", "0.0.0.0:0", &[&lab.path("nobody.sock")]);
    lab.until("a warning", || exporter.log().contains("there is no password").then_some(()));
    let (exporter, _) = lab.export("closed", "127.0.0.1:0", &[&lab.path("nobody.sock")]);
    lab.until("it looks", || exporter.log().contains("no node runs here").then_some(()));
    assert!(!exporter.log().contains("password"), "{}", exporter.log());
}
