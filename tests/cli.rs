//! The command line of the real binary: every mistake is one line on the standard error and exit status 2.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use berkeleyd::key_file;
use berkeleyd::time::Time;

const BINARY: &str = env!("CARGO_BIN_EXE_berkeleyd");

fn berkeleyd(arguments: &[&str]) -> Output {
    let output = Command::new(BINARY).args(arguments).env_clear().stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{BINARY}: {error}"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Exit status 2, nothing on the standard output, and one line that contains all of `parts`.
fn assert_mistake(arguments: &[&str], parts: &[&str]) {
    let output = berkeleyd(arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
    assert!(text.ends_with('\n') && text.lines().count() == 1, "{arguments:?} takes one line:\n{text}");
    assert!(!text.contains("Usage") && !text.trim_end().contains(char::is_control), "{arguments:?}: {text:?}");
    for part in parts {
        assert!(text.contains(part), "{arguments:?} must say {part:?}: {text}");
    }
}

#[test]
fn mistakes_on_the_command_line_are_one_line_and_exit_2() {
    let long_path = format!("--status-socket=/{}", "x".repeat(108));
    let mistakes: &[(&str, &[&str])] = &[
        // Names.
        ("--intervall 1s", &["'--intervall'", "did you mean '--interval'?", "--help"]),
        ("--Role master", &["'--Role'", "'--role'"]),
        ("--peers 192.0.2.1:1", &["'--peers'", "'--peer'"]),
        ("-x", &["unexpected argument '-x'"]),
        ("--simulate-everything", &["unexpected argument '--simulate-everything'"]),
        ("statsu", &["unknown command 'statsu'", "did you mean 'status'?"]),
        ("-", &["unknown command '-'"]),
        ("status --sokcet /x", &["'--sokcet'", "'--socket'"]),
        ("demo now", &["unexpected argument 'now'"]),
        ("--role slave slave", &["unexpected argument 'slave'"]),
        // What belongs to the other.
        ("--role slave status", &["'status'", "cannot be used with '--role"]),
        ("-v demo", &["'demo'", "cannot be used with '--verbose"]),
        ("status --role slave", &["unexpected argument '--role'"]),
        ("--json", &["unexpected argument '--json'"]),
        ("check-config", &["<FILE>", "not provided"]),
        ("check-config a b", &["unexpected argument 'b'"]),
        ("keygen berkeleyd.keys", &["unexpected argument 'berkeleyd.keys'"]),
        // Missing, repeated and unwanted values.
        ("--interval", &["'--interval <DUR>' needs a value"]),
        ("--interval --role slave", &["'--interval <DUR>' needs a value"]),
        ("--inject-drift -v", &["'--inject-drift <PPM>' needs a value"]),
        ("--peer", &["'--peer <IP:PORT>' needs a value"]),
        ("--interface=", &["'--interface <NAME|IP>' needs a value"]),
        ("--state-dir=", &["'--state-dir <DIR>' needs a value"]),
        ("status --socket", &["'--socket <PATH>' needs a value"]),
        ("--config", &["'--config <FILE>' needs a value"]),
        ("--verbose=3", &["'3'", "--verbose"]),
        ("--role slave --role slave", &["'--role <ROLE>'", "multiple times"]),
        ("-v -q", &["'--verbose...'", "cannot be used with", "'--quiet...'"]),
        ("--allow-step=maybe", &["'maybe'", "--allow-step", "true, false"]),
        ("--allow-step maybe", &["unexpected argument 'maybe'"]),
        // Roles, keys, and what is not built yet.
        ("--role mastr", &["'mastr'", "--role", "master, slave, auto"]),
        ("--role slave --key-file /no/such/keys", &["/no/such/keys: cannot be read: No such file or directory"]),
        ("--role slave --timestamping hardware", &["--timestamping hardware", "not built yet", "auto or kernel"]),
        ("--timestamping cesium", &["'cesium'", "--timestamping", "auto, hardware, kernel, user"]),
        // Privileges.
        ("--user 65534:", &["'65534:'", "--user", "a name, or two numbers"]),
        ("--user 4294967295:0", &["'4294967295:0'", "--user", "a name, or two numbers"]),
        ("--user no-such-user", &["--user", "there is no user no-such-user on this machine"]),
        ("--without capability", &["'capability'", "--without", "capabilities, no-new-privs, seccomp"]),
        ("--without no-new-privs", &["--without no-new-privs takes seccomp with it", "leave out both"]),
        // Durations.
        ("--interval 1", &["'1'", "--interval", "the unit must be ns, us, ms, s, min, h or d"]),
        ("--interval soon", &["'soon'", "--interval", "number with a unit"]),
        ("--interval 1.2.3s", &["'1.2.3s'", "--interval"]),
        ("--gamma 99999999d", &["'99999999d'", "--gamma", "longer than 146 years"]),
        ("--role slave --interval -1s", &["--interval must lie between 62.5ms and 64s"]),
        ("--role slave --interval 65s", &["--interval must lie between 62.5ms and 64s"]),
        ("--role slave --min-interval 2s", &["--min-interval must not be longer than interval"]),
        ("--role slave --min-interval 1ms", &["--min-interval must be at least 62.5ms"]),
        ("--role slave --max-interval 500ms", &["--max-interval must not be shorter than interval"]),
        ("--role slave --max-interval 65s", &["--max-interval must be at most 64s"]),
        ("--weight 3", &["--weight", "must name a node, as in 7=3"]),
        ("--weight 7=0", &["--weight", "whole number from 1"]),
        ("--weight x=1", &["--weight", "\"x\" is neither the number of a node nor an IP address"]),
        ("--role slave --weight 7=1 --weight 7=2", &["--weight is given twice for the same node"]),
        ("--delay-asymmetry 7=soon", &["--delay-asymmetry", "number with a unit"]),
        ("--delay-asymmetry 2s", &["--delay-asymmetry", "at most 1s either way"]),
        ("--role slave --gamma 0", &["--gamma must be positive"]),
        ("--role slave --step-threshold -1ms", &["--step-threshold must not be negative"]),
        ("--role slave --max-correction 0s", &["--max-correction must be positive"]),
        // Numbers.
        ("--domain -1", &["'-1'", "--domain", "from 0 to 4294967295"]),
        ("--domain 4294967296", &["--domain", "from 0 to 4294967295"]),
        ("--domain 1.5", &["--domain", "whole number"]),
        ("--priority 2147483648", &["--priority", "from -2147483648 to 2147483647"]),
        ("--node-id 0", &["--node-id", "whole number from 1"]),
        ("--max-slaves 0", &["--max-slaves", "whole number from 1"]),
        ("--inject-drift fast", &["'fast'", "--inject-drift", "from -100000 to 100000"]),
        ("--inject-drift nan", &["'nan'", "--inject-drift"]),
        ("--max-slew 1e6", &["'1e6'", "--max-slew", "from -100000 to 100000"]),
        ("--role slave --max-slew 0", &["--max-slew must lie between"]),
        ("--average median", &["'median'", "--average"]),
        ("--clock atomic", &["'atomic'", "--clock", "virtual, system"]),
        // Keys.
        ("keygen --id 0", &["'0'", "--id", "from 1 to 4294967295"]),
        ("keygen --id 4294967296", &["--id", "from 1 to 4294967295"]),
        ("keygen --send-from 2027-01-01", &["--send-from", "a date with time and zone, such as 2027-01-01T00:00:00Z"]),
        ("keygen --add", &["'--add <FILE>' needs a value"]),
        ("keygen --add /no/such/file", &["/no/such/file: cannot be read: No such file"]),
        ("keygen --add /dev/null", &["/dev/null: not a regular file"]),
        // Addresses.
        ("--bind 192.0.2.1", &["'192.0.2.1'", "--bind", "port is missing", "192.0.2.1:5525"]),
        ("--bind ::1", &["'::1'", "--bind", "port is missing", "[::1]:5525"]),
        ("--bind localhost:1", &["'localhost:1'", "--bind", "must be an IP address and a port"]),
        ("--peer 192.0.2.1:70000", &["'192.0.2.1:70000'", "--peer"]),
        ("--role slave --bind 239.1.1.1:5525", &["--bind 239.1.1.1:5525", "multicast group"]),
        ("--role slave --group 192.0.2.1:5525", &["--group 192.0.2.1:5525", "not a multicast address"]),
        ("--role slave --group 239.1.1.1:0", &["--group 239.1.1.1:0", "port other than 0"]),
        ("--role slave --group [ff15::1]:1", &["--group [ff15::1]:1", "--bind 0.0.0.0:5525", "IPv4 and IPv6"]),
        ("--role slave --peer [::1]:1", &["--peer [::1]:1", "--bind 0.0.0.0:5525", "IPv4 and IPv6"]),
        ("--role slave --bind [::]:1 --peer 192.0.2.1:1", &["--peer 192.0.2.1:1", "--bind [::]:1"]),
        ("--role slave --peer 192.0.2.1:0", &["--peer 192.0.2.1:0", "port other than 0"]),
        ("--role slave --peer 239.1.1.1:1", &["--peer 239.1.1.1:1", "one machine"]),
        ("--role slave --peer 0.0.0.0:1", &["--peer 0.0.0.0:1", "one machine"]),
        ("--role slave --peer 192.0.2.1:1 --peer 192.0.2.1:1", &["--peer 192.0.2.1:1", "given twice"]),
        ("--role master --max-slaves 1 --peer 192.0.2.1:1 --peer 192.0.2.2:1", &["--max-slaves is 1", "2 peers"]),
        // Submasters.
        (
            "--role master --domain 3 --upper-domain 7",
            &["--upper-domain is 7, and domain 3 cannot follow it", "lower number", "no circle"],
        ),
        ("--role master --domain 7 --upper-domain 7", &["--upper-domain is 7, and domain 7 cannot follow it"]),
        ("--role master --upper-domain 0", &["--upper-domain is 0, and domain 0 cannot follow it"]),
        ("--domain 7 --upper-domain 3", &["--upper-domain needs --role master"]),
        ("--role slave --domain 7 --upper-domain 3", &["--upper-domain needs --role master"]),
        ("--role master --domain 7 --upper-peer 192.0.2.1:1", &["--upper-peer needs --upper-domain"]),
        ("--role master --domain 7 --upper-role slave", &["--upper-role needs --upper-domain"]),
        ("--upper-role master", &["'master'", "--upper-role", "slave, auto"]),
        ("--upper-domain -1", &["'-1'", "--upper-domain", "from 0 to 4294967295"]),
        (
            "--role master --domain 7 --upper-domain 3 --upper-group 192.0.2.1:5",
            &["--upper-group 192.0.2.1:5", "multicast"],
        ),
        (
            "--role master --domain 7 --upper-domain 3 --upper-bind [::]:0 --upper-peer 192.0.2.1:5",
            &["--upper-peer 192.0.2.1:5 and --upper-bind [::]:0 mix"],
        ),
        (
            "--role master --domain 7 --upper-domain 3 --bind 0.0.0.0:5525",
            &["--bind 0.0.0.0:5525 takes the port of 239.255.5.25:5525", "port 0"],
        ),
        (
            "--role master --domain 7 --upper-domain 3 --bind 192.0.2.1:7 --upper-bind 192.0.2.1:7",
            &["--bind 192.0.2.1:7 takes the port of 192.0.2.1:7"],
        ),
        // Contradictions.
        ("--role slave --clock system --inject-offset 1s", &["--inject-offset", "--clock virtual"]),
        ("--role slave --clock system --inject-drift 0", &["--inject-drift", "--clock virtual"]),
        ("--role slave --clock system --inject-lie 1s", &["--inject-lie", "--clock virtual"]),
        (&format!("--role slave {long_path}"), &["--status-socket", "at most 107 bytes"]),
    ];
    for (arguments, parts) in mistakes {
        assert_mistake(&arguments.split_whitespace().collect::<Vec<_>>(), parts);
    }
}

#[test]
fn a_value_with_line_breaks_and_escapes_is_still_one_line() {
    assert_mistake(&["--role", "a\n\nb\u{1b}[31m"], &["--role", "a\\n\\nb"]);
    assert_mistake(&["--a\nb"], &["unexpected argument", "a\\nb"]);
    assert_mistake(&["--config", "no\nfile"], &["no\\nfile: cannot be read"]);
}

#[test]
fn mistakes_in_a_file_are_located() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("config.toml");
    let name = file.to_str().expect("UTF-8");
    let mistakes: &[(&str, &str)] = &[
        ("# a group\nrole = 'slave'\nintervall = '1s'", "3:1: unknown key `intervall`, did you mean `interval`?"),
        ("max_slew = 5", "1:1: unknown key `max_slew`, did you mean `max-slew`?"),
        ("[node]\nrole = 'slave'", "1:2: unknown key `node`"),
        ("config = 'x'", "1:1: `config` can be given on the command line only"),
        ("interval = 5", "1:12: `interval` must be a string with a unit, such as \"250ms\", not an integer"),
        ("  gamma =  '5 parsecs'", "1:12: invalid value '5 parsecs' for `gamma`: the unit must be"),
        ("\u{e4}=1", "1:1: "),
        ("domain = '7'", "1:10: `domain` must be a number, not a string"),
        ("domain = -7", "1:10: invalid value '-7' for `domain`: must be a whole number from 0 to"),
        ("max-slew = inf", "1:12: invalid value 'inf' for `max-slew`"),
        ("allow-step = 'yes'", "1:14: `allow-step` must be true or false, not a string"),
        ("peer = '192.0.2.1:1'", "1:8: `peer` must be a list of strings"),
        ("peer = [\n '192.0.2.1:1',\n 'x']", "3:2: invalid value 'x' for `peer`"),
        ("role = 'boss'", "1:8: invalid value 'boss' for `role`: must be one of master, slave, auto"),
        ("quorum = 0", "1:10: invalid value '0' for `quorum`"),
        ("role = 'slave'\nrole = 'slave'", "2:1: duplicate key"),
        ("role = ", "1:8: "),
        ("role = 'slave", "1:14: "),
        ("role = 'slave'\ninterval = '2min'", "2:12: `interval` must lie between 62.5ms and 64s"),
        ("role = 'slave'\ngroup = '192.0.2.1:1'", "2:9: `group` 192.0.2.1:1 is not a multicast address"),
        ("role = 'slave'\nclock = 'system'\ninject-offset = '1s'", "3:17: `inject-offset` needs --clock virtual"),
        ("role = 'slave'\nnode-id = 0", "2:11: invalid value '0' for `node-id`"),
    ];
    for (text, part) in mistakes {
        fs::write(&file, text).expect("written");
        assert_mistake(&["check-config", name], &[&format!("{name}:{part}")]);
        assert_mistake(&["--config", name], &["berkeleyd: ", &format!("{name}:{part}")]);
    }
    fs::write(&file, b"role = '\xff'").expect("written");
    assert_mistake(&["--config", name], &[&format!("{name}:1:9: not UTF-8 text")]);
}

#[test]
fn files_that_cannot_be_read_are_mistakes() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    fs::write(path("file"), "").expect("written");
    fs::write(path("huge"), "#".repeat((1 << 20) + 1)).expect("written");
    fs::write(path("secret"), "").expect("written");
    fs::set_permissions(path("secret"), fs::Permissions::from_mode(0o000)).expect("permissions");
    let mut mistakes = vec![
        (path("none"), "No such file"),
        (path("file/none"), "Not a directory"),
        (path(""), "Is a directory"),
        (path("huge"), "larger than"),
    ];
    // Root reads everything.
    if fs::File::open(path("secret")).is_err() {
        mistakes.push((path("secret"), "Permission denied"));
    }
    for (file, part) in mistakes {
        assert_mistake(&["check-config", &file], &[&file, part]);
        assert_mistake(&["--config", &file, "--role", "slave"], &["berkeleyd: ", &file, part]);
    }
}

#[test]
fn check_config_lists_all_mistakes_and_a_run_counts_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("config.toml");
    let name = file.to_str().expect("UTF-8");
    fs::write(&file, "gamma = 1\n\nrole = 2\npriorty = 3\n").expect("written");
    let output = berkeleyd(&["check-config", name]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    let text = stderr(&output);
    let places = ["1:9: `gamma`", "3:8: `role`", "4:1: unknown key `priorty`, did you mean `priority`?"];
    assert_eq!(text.lines().count(), places.len(), "{text}");
    for (line, place) in text.lines().zip(places) {
        assert!(line.starts_with(&format!("{name}:{place}")), "{line}");
    }
    assert_mistake(&["--config", name], &["1:9: `gamma`", "(and 2 more: berkeleyd check-config"]);

    fs::write(&file, "group = '192.0.2.1:1'\ninterval = '1h'\n").expect("written");
    assert_eq!(stderr(&berkeleyd(&["check-config", name])).lines().count(), 2, "contradictions too");
    let several = "min-interval = '2s'\ngamma = '0s'\nstep-threshold = '-1s'\nmax-correction = '0s'\nclock = 'system'\ninject-offset = '1s'\n";
    fs::write(&file, several).expect("written");
    let text = stderr(&berkeleyd(&["check-config", name]));
    let places = [
        "1:16: `min-interval`",
        "2:9: `gamma`",
        "3:18: `step-threshold`",
        "4:18: `max-correction`",
        "6:17: `inject-offset`",
    ];
    assert_eq!(text.lines().count(), places.len(), "{text}");
    assert!(
        places.iter().zip(text.lines()).all(|(place, line)| line.starts_with(&format!("{name}:{place}"))),
        "{text}"
    );

    for sound in
        ["", "# nothing\n", "\u{feff}role = 'master'\r\n", "domain = 7\npeer = ['192.0.2.1:1']\nmax-slew = 0.5"]
    {
        fs::write(&file, sound).expect("written");
        let output = berkeleyd(&["check-config", name]);
        assert_eq!((output.status.code(), output.stdout.len(), stderr(&output).as_str()), (Some(0), 0, ""), "{sound}");
    }
}

/// Writes a file that nobody else can read.
fn write_secret(file: &Path, text: impl AsRef<[u8]>) {
    let written = fs::write(file, text).and_then(|()| fs::set_permissions(file, fs::Permissions::from_mode(0o600)));
    written.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

#[test]
fn check_config_reads_the_key_files_as_well() {
    let dir = tempfile::tempdir().expect("a directory");
    let [config, upper, lower] = ["config.toml", "upper.keys", "lower.keys"].map(|name| dir.path().join(name));
    let check = |text: String| {
        fs::write(&config, text).expect("written");
        let output = berkeleyd(&["check-config", config.to_str().expect("UTF-8")]);
        assert!(output.stdout.is_empty());
        (output.status.code(), stderr(&output))
    };
    let one = format!("key-file = {lower:?}\n");
    let both = format!("{one}role = 'master'\nupper-domain = 1\ndomain = 2\nupper-key-file = {upper:?}\n");
    let sound = "[[key]]\nid = 1\nkey = '00112233445566778899aabbccddeeff'\n";
    let (code, text) = check(both.clone());
    assert!(code == Some(2) && text.lines().count() == 2 && text.contains("upper.keys: cannot be read: "), "{text}");
    write_secret(&upper, sound);
    write_secret(&lower, sound.repeat(2));
    assert_eq!(check(both.clone()), (Some(2), format!("{}:5:6: there is a key 1 already\n", lower.display())));
    // One file for both domains is complained of once.
    assert_eq!(check(both.replace("upper.keys", "lower.keys")).1.lines().count(), 1);
    write_secret(&lower, sound);
    assert_eq!(check(both), (Some(0), String::new()));
    assert_eq!(check(one.clone()), (Some(0), String::new()));
    let (code, text) = check(format!("{one}user = 'nobody has this name'\n"));
    assert!(code == Some(2) && text.contains("--user: there is no user nobody has this name"), "{text}");
}

#[test]
fn keygen_makes_a_key_file_and_adds_to_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("keys");
    let keys = || {
        let ring = key_file::load(&file, nix::unistd::geteuid(), Time::default()).expect("a key file");
        ring.keys().map(|(id, lifetime)| (id.get(), lifetime.send_from)).collect::<Vec<_>>()
    };
    let keygen = |arguments: &[&str]| {
        let output = berkeleyd(&[&["keygen"], arguments].concat());
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{arguments:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let (first, other) = (keygen(&[]), keygen(&[]));
    assert_ne!(first, other, "no two keys are alike");
    assert!(first.starts_with("# Keys of a berkeleyd ensemble"), "{first}");
    write_secret(&file, &first);
    assert_eq!(keys(), [(1, None)]);
    let name = file.to_str().expect("UTF-8");
    let both = keygen(&["--add", name, "--send-from", "2027-01-01T00:00:00Z"]);
    assert!(both.starts_with(first.trim_end()), "{both}");
    write_secret(&file, &both);
    assert_eq!(keys(), [(1, None), (2, Some(Time::from_nanos(1_798_761_600_000_000_000)))]);
    write_secret(&file, keygen(&["--add", name, "--id", "77"]));
    assert_eq!(keys().len(), 3);
    assert_mistake(&["keygen", "--add", name, "--id", "77"], &["--id 77", name, "has a key 77 already"]);
}

#[test]
fn a_bad_key_file_is_one_line_that_tells_no_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("keys");
    let name = file.to_str().expect("UTF-8");
    let digits = "00112233445566778899aabbccddeeff";
    let sound = format!("[[key]]\nid = 1\nkey = '{digits}'\n");
    for (text, part) in [
        (String::new(), ": there is no key"),
        ("[[key]]\nid = 1\n".to_owned(), ":1:1: key 1 has no `key`: the file may have been cut off"),
        (sound.replace("ff'", ""), ":3:38: "),
        (sound.repeat(2), ":5:6: there is a key 1 already"),
        (sound.replace("ff", ""), ":3:7: `key` must have 32 hexadecimal digits, not 30"),
        (sound.replace("ff", "fg"), ":3:7: character 32 of `key` is no hexadecimal digit"),
        (format!("accept_until = 1\n{sound}"), ":1:1: unknown field `accept_until`"),
        (format!("1 AES128 HEX:{digits}\n"), ":1:3: "),
    ] {
        write_secret(&file, text);
        assert_mistake(&["keygen", "--add", name], &["berkeleyd: ", &format!("{name}{part}")]);
        assert!(!stderr(&berkeleyd(&["keygen", "--add", name])).contains("2233"));
    }
    write_secret(&file, sound);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("permissions");
    assert_mistake(&["keygen", "--add", name], &[name, "others may use it (its mode is 0644): chmod 600 it"]);
}

#[test]
fn help_and_version_are_answers() {
    for (arguments, part) in [
        (&["--help"][..], "--inject-drift <PPM>"),
        (&["-h"], "Examples:"),
        (&["status", "--help"], "--socket <PATH>"),
        (&["demo", "--help"], "loopback"),
        (&["check-config", "-h"], "<FILE>"),
        (&["keygen", "--help"], "--send-from <DATE>"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
        (&["--role", "slave", "-V"], env!("CARGO_PKG_VERSION")),
    ] {
        let output = berkeleyd(arguments);
        let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{arguments:?}");
        assert!(text.contains(part), "{arguments:?} must say {part}:\n{text}");
        assert!(!text.contains("inject-lie"), "hidden");
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "wider than 100 columns: {line}");
        }
    }
}

#[test]
fn every_option_of_the_help_has_a_sentence() {
    let help = String::from_utf8(berkeleyd(&["--help"]).stdout).expect("UTF-8");
    let options: Vec<_> = help.lines().filter(|line| line.trim_start().starts_with('-')).collect();
    assert!(options.len() >= 30, "{help}");
    for line in options {
        assert!(line.trim_start().split_once("  ").is_some_and(|(_, text)| text.trim().len() > 8), "{line}");
    }
}

#[test]
fn a_reader_that_has_gone_is_no_failure_and_a_full_disk_is_one() {
    let with_stdout = |stdout: Stdio| {
        let child = Command::new(BINARY).arg("--help").env_clear().stdout(stdout).stderr(Stdio::piped()).spawn();
        child.and_then(std::process::Child::wait_with_output).expect("the binary runs")
    };
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = with_stdout(writer.into());
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    if Path::new("/dev/full").exists() {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let output = with_stdout(full.into());
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).starts_with("berkeleyd: standard output: "), "{}", stderr(&output));
    }
}
