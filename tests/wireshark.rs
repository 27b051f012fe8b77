//! The Wireshark dissector against the codec: its tables against the layouts, and what `tshark` shows of real nodes' frames, of the
//! vectors and of thousands of damaged frames against what [`Frame`] makes of the same bytes.

#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "what fails here is a failed test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use berkeleyd::protocol::{
    Answered, DecodeError, ENTRY_LEN, Entry, Field, Frame, HEADER_LEN, MAGIC, Merit, Message, Outcome, SUCCESSORS,
    TRAILER_LEN, Trailer, VERSION, layout, split_trailer,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use support::lab::{Daemon, Lab, PATIENCE, agreed_master, berkeleyd, free_port, skip};

/// Of every message type, in the order of their numbers, and of what stands around and in a body.
const BODIES: [(&str, &[Field]); 9] = [
    ("request", layout::REQUEST),
    ("response", layout::RESPONSE),
    ("correction", layout::CORRECTION),
    ("acknowledgement", layout::ACKNOWLEDGEMENT),
    ("join", layout::JOIN),
    ("leave", layout::LEAVE),
    ("announce", layout::ANNOUNCE),
    ("claim", layout::CLAIM),
    ("refusal", layout::REFUSAL),
];
const PARTS: [(&str, &[Field]); 3] =
    [("header", layout::HEADER), ("trailer", layout::TRAILER), ("entry", layout::ENTRY)];

/// What the dissector adds to the fields of the wire.
const DERIVED: [&str; 14] = [
    "body",
    "delay",
    "disciplined",
    "entry",
    "exchange",
    "offset",
    "response_in",
    "response_time",
    "response_to",
    "t4",
    "target",
    "trailer",
    "trailing",
    "turnaround",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn dissector() -> PathBuf {
    root().join("contrib/wireshark/berkeleyd.lua")
}

// ---- tables -------------------------------------------------------------------------------------------------------------

/// The tables of the dissector: names and sizes by layout.
fn tables() -> BTreeMap<String, Vec<(String, usize)>> {
    let script = fs::read_to_string(dissector()).expect("the dissector");
    let (_, tables) = script.split_once("local LAYOUT = {\n").expect("its tables");
    let (tables, _) = tables.split_once("\n}\n").expect("their end");
    let mut found: BTreeMap<String, Vec<(String, usize)>> = BTreeMap::new();
    let mut current = String::new();
    for line in tables.lines().map(str::trim) {
        if let Some(name) = line.strip_suffix(" = {") {
            current = name.to_owned();
        } else if let Some(field) = line.strip_prefix("{ \"") {
            let (name, rest) = field.split_once("\", ").expect("a name");
            let (size, _) = rest.split_once(", ").expect("a size");
            let field = (name.to_owned(), size.parse().expect("a size"));
            found.entry(current.clone()).or_default().push(field);
        }
    }
    found
}

#[test]
fn the_dissectors_tables_are_the_layouts_of_the_codec() {
    let of_codec = |fields: &[Field]| fields.iter().map(|field| (field.name.to_owned(), field.size)).collect();
    let layouts = BODIES.iter().chain(&PARTS).map(|(name, fields)| ((*name).to_owned(), of_codec(fields)));
    assert_eq!(tables(), layouts.collect::<BTreeMap<String, Vec<(String, usize)>>>());
}

#[test]
#[ignore = "needs tshark (apt-get install --no-install-recommends tshark): cargo test --test wireshark -- --ignored"]
fn there_is_a_display_filter_for_each_field_and_no_other() {
    let fields = tshark(&["-G", "fields"]);
    // A dot further on: a bit of a field, or an expert info.
    let shown = fields.lines().filter_map(|line| line.split('\t').nth(2)?.strip_prefix("berkeleyd."));
    let shown: BTreeSet<&str> = shown.filter(|name| !name.contains('.')).collect();
    let layouts = BODIES.iter().chain(&PARTS).flat_map(|(_, fields)| fields.iter().map(|field| field.name));
    assert_eq!(shown, layouts.chain(DERIVED).collect());
}

// ---- what tshark shows --------------------------------------------------------------------------------------------------

/// Runs tshark with the dissector; no word of it may be of an error in the script.
fn tshark(arguments: &[&str]) -> String {
    let mut command = Command::new("tshark");
    // -G has to come first.
    command.args(arguments).arg("-X").arg(format!("lua_script:{}", dissector().display()));
    let output = command.output().expect("tshark");
    let (text, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{log}");
    assert!(!log.contains("Lua"), "{log}");
    text.into_owned()
}

/// One datagram as tshark shows it.
struct Shown {
    bytes: Vec<u8>,
    /// The frame's own fields: every value under its name without `berkeleyd.`, in order.
    fields: Fields,
    entries: Vec<Fields>,
    trailer: Option<Fields>,
    /// Names and messages of expert infos, and whether they are errors.
    experts: Vec<(String, String, bool)>,
}

type Fields = BTreeMap<String, Vec<String>>;

fn each(value: &Value) -> &[Value] {
    value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice)
}

impl Shown {
    fn new(packet: &Value) -> Self {
        let layers = &packet["_source"]["layers"];
        let mut shown = Self {
            bytes: octets(layers["udp"]["udp.payload"].as_str().expect("a payload")),
            fields: Fields::new(),
            entries: Vec::new(),
            trailer: None,
            experts: Vec::new(),
        };
        shown.fields = shown.take(&layers["berkeleyd"]);
        shown
    }

    /// The fields of a tree, and what hangs below.
    fn take(&mut self, tree: &Value) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in tree.as_object().into_iter().flatten() {
            match name.strip_prefix("berkeleyd.") {
                Some("entry") => each(value).iter().for_each(|entry| {
                    let entry = self.take(entry);
                    self.entries.push(entry);
                }),
                Some("trailer") => self.trailer = Some(self.take(value)),
                Some(name) if name.ends_with("_tree") => {
                    each(value).iter().for_each(|below| fields.extend(self.take(below)));
                }
                Some(name) => {
                    let texts = each(value).iter().filter_map(|value| value.as_str().map(str::to_owned));
                    fields.entry(name.to_owned()).or_default().extend(texts);
                }
                None if name == "_ws.expert" => each(value).iter().for_each(|info| self.take_expert(info)),
                None => {}
            }
        }
        fields
    }

    fn take_expert(&mut self, info: &Value) {
        let names = info.as_object().into_iter().flatten();
        let name = names.filter_map(|(name, _)| name.strip_prefix("berkeleyd.expert.")).next().unwrap_or_default();
        let message = info["_ws.expert.message"].as_str().unwrap_or(name);
        // PI_ERROR of Wireshark.
        let is_error = info["_ws.expert.severity"] == "8388608";
        self.experts.push((name.to_owned(), message.to_owned(), is_error));
    }

    fn has_error(&self) -> bool {
        self.experts.iter().any(|(.., is_error)| *is_error)
    }

    /// A field that the frame has once.
    fn number(&self, name: &str) -> Option<i128> {
        self.fields.get(name).and_then(|values| values.first()).map(|text| number(text))
    }
}

fn octets(text: &str) -> Vec<u8> {
    text.split(':').map(|pair| u8::from_str_radix(pair, 16).expect("two digits")).collect()
}

fn number(text: &str) -> i128 {
    let number = match text.strip_prefix("0x") {
        Some(digits) => i128::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// What tshark shows of the datagrams in a file, after a second look at each: the first does not know what comes later.
fn dissect(capture: &Path) -> Vec<Shown> {
    let file = capture.to_str().expect("a path");
    // The nodes' ports are whichever were free: some of them are other protocols' in Wireshark's tables.
    let ports = ["-o", "udp.try_heuristic_first:TRUE"];
    let what = ["-2", "-r", file, "-T", "json", "--no-duplicate-keys", "-J", "berkeleyd udp", "-Y", "udp"];
    let json = tshark(&[&ports[..], &what].concat());
    assert!(!json.contains("Lua Error"), "{json}");
    let packets: Vec<Value> = serde_json::from_str(&json).expect("JSON");
    packets.iter().map(Shown::new).collect()
}

/// Writes datagrams as a capture of IPv4 packets between two nodes at the standard port; responses go the other way.
fn write_capture(path: &Path, datagrams: &[Vec<u8>]) {
    let mut file = Vec::new();
    // The file's head: magic, version 2.4, no time zone, no snapshot limit, LINKTYPE_RAW.
    [0xa1b2_c3d4_u32, 0x0002_0004, 0, 0, 65_535, 101].iter().for_each(|word| file.extend(word.to_be_bytes()));
    for (index, datagram) in datagrams.iter().enumerate() {
        let udp = u16::try_from(8 + datagram.len()).expect("short");
        let length = 20 + udp;
        let index = u32::try_from(index).expect("few");
        let record = [1_790_000_000, index, length.into(), length.into()];
        record.iter().for_each(|word| file.extend(word.to_be_bytes()));
        file.extend([0x45, 0]);
        file.extend(length.to_be_bytes());
        let (from, to) = if datagram.get(3) == Some(&2) { (2, 1) } else { (1, 2) };
        file.extend([0, 0, 0, 0, 1, 17, 0, 0, 127, 0, 0, from, 127, 0, 0, to]);
        [5525, 5525, udp, 0].iter().for_each(|half| file.extend(half.to_be_bytes()));
        file.extend(datagram);
    }
    fs::write(path, file).expect("written");
}

/// The bytes of each file in `tests/vectors`, by its name.
fn vectors() -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(root().join("tests/vectors")).expect("the vectors");
    let vector = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a vector");
        let rows = text.lines().skip_while(|line| line.trim() != "hex").skip(1);
        let digits: String = rows
            .map(|row| row.split('#').next().unwrap_or_default())
            .flat_map(|row| row.split_whitespace().skip(usize::from(!row.starts_with(' '))))
            .collect();
        let bytes = digits.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).expect("ASCII"));
        let bytes = bytes.map(|pair| u8::from_str_radix(pair, 16).expect("two digits")).collect();
        (path.file_stem().expect("a name").to_string_lossy().into_owned(), bytes)
    };
    files.map(|file| vector(file.expect("a file").path())).collect()
}

// ---- what the codec says ------------------------------------------------------------------------------------------------

/// The frame and its trailer, as a node that has the key or needs none reads them.
fn decode(bytes: &[u8]) -> Result<(Frame<'_>, Option<Trailer<'_>>), DecodeError> {
    let is_authenticated = bytes.get(5).is_some_and(|flags| flags & 1 == 1);
    let decode = if is_authenticated { Frame::decode_authenticated } else { Frame::decode };
    let frame = decode(bytes)?;
    Ok((frame, split_trailer(bytes)?.map(|(_, trailer)| trailer)))
}

fn merit_number(merit: Option<Merit>) -> i128 {
    merit.map_or(0, |merit| match merit {
        Merit::Implausible => 1,
        Merit::Plausible => 2,
        Merit::Established => 3,
        Merit::Appointed => 4,
    })
}

/// What is said of an exchange before, if anything is.
fn exchange_said(previous: Option<Answered>) -> impl Iterator<Item = (&'static str, i128)> {
    let said = |previous: Answered| {
        [("previous_t1", previous.t1.as_nanos().into()), ("previous_t4", previous.t4.as_nanos().into())]
    };
    previous.map(said).into_iter().flatten()
}

/// What a body means, under the names of the dissector. What has no meaning is left out.
fn said(message: &Message<'_>) -> Vec<(&'static str, i128)> {
    match message {
        Message::Request(request) => {
            let fields = [
                ("t1", request.t1.as_nanos().into()),
                ("ahead", request.ahead.as_nanos().into()),
                ("rate", request.rate.as_ppt().into()),
                ("error_bound", request.error_bound.as_nanos().into()),
                ("window", request.window.map_or(0, |window| (window.span().as_nanos() / 1_000).into())),
            ];
            fields.into_iter().chain(exchange_said(request.previous)).collect()
        }
        Message::Response(response) => {
            let previous = response.previous.map(|previous| {
                [("previous_t1", previous.t1.as_nanos().into()), ("t3_late", previous.late.as_nanos().into())]
            });
            let fields = [
                ("t1", response.t1.as_nanos().into()),
                ("t2", response.t2.as_nanos().into()),
                ("t3", response.t3.as_nanos().into()),
                ("ahead", response.ahead.as_nanos().into()),
                ("slew", response.slew.as_nanos().into()),
                ("rate", response.rate.as_ppt().into()),
                ("error_bound", response.error_bound.as_nanos().into()),
                ("adjustment", response.adjustment.into()),
                ("applied_round", response.applied_round.get().into()),
                ("response_flags.reference", response.is_reference.into()),
                ("response_flags.synchronised", response.is_synchronised.into()),
                ("response_flags.near_the_wire", response.is_stamped_near_the_wire.into()),
                ("turnaround", (response.t3 - response.t2).as_nanos().into()),
            ];
            fields.into_iter().chain(previous.into_iter().flatten()).collect()
        }
        Message::Correction(corrections) => {
            let fields = [
                ("count", i128::try_from(corrections.entries.count()).expect("few")),
                ("correction_flags.acknowledged_by_response", corrections.by_response.into()),
            ];
            fields.into_iter().chain(exchange_said(corrections.previous)).collect()
        }
        Message::Acknowledgement(acknowledgement) => {
            let outcome = match acknowledgement.outcome {
                Outcome::Stepped => 1,
                Outcome::Slewed => 2,
                Outcome::Refused => 3,
            };
            vec![("adjustment", acknowledgement.adjustment.into()), ("outcome", outcome)]
        }
        Message::Join(join) => {
            let master = join.master.map(|(master, incarnation)| {
                [("master", master.get().into()), ("master_incarnation", incarnation.get().into())]
            });
            let corrected = join
                .corrected_in
                .map(|(term, by)| [("corrected_term", term.get().into()), ("corrected_master", by.get().into())]);
            let fields = [
                ("priority", join.priority.into()),
                ("join_flags.reference", join.is_reference.into()),
                ("join_flags.hears_group", join.hears_group.into()),
                ("merit", merit_number(join.merit)),
                ("rate_error", join.rate_error.as_ppt().into()),
            ];
            fields.into_iter().chain(master.into_iter().chain(corrected).flatten()).collect()
        }
        Message::Leave(leave) => vec![("successor", leave.successor.unwrap_or_default().get().into())],
        Message::Announce(announce) => {
            // Successors are compared by themselves: the codec closes gaps.
            vec![
                ("interval", announce.interval.as_nanos().into()),
                ("priority", announce.priority.into()),
                ("merit", merit_number(Some(announce.merit))),
                ("heartbeat", (announce.heartbeat.span().as_nanos() / 10_000_000).into()),
                ("members", announce.members.into()),
            ]
        }
        Message::Claim(claim) => vec![
            ("priority", claim.priority.into()),
            ("merit", merit_number(Some(claim.merit))),
            ("claim_flags.hand_over", claim.is_handover.into()),
        ],
        Message::Refusal(refusal) => vec![("master", refusal.master.unwrap_or_default().get().into())],
    }
}

fn said_in_entry(entry: &Entry) -> [(&'static str, i128); 8] {
    [
        ("node", entry.node.get().into()),
        ("node_incarnation", entry.node_incarnation.get().into()),
        ("reference", entry.reference.as_nanos().into()),
        ("correction", entry.correction.as_nanos().into()),
        ("rate", entry.rate.as_ppt().into()),
        ("error_bound", entry.error_bound.as_nanos().into()),
        ("rate_error", entry.rate_error.as_ppt().into()),
        ("adjustment", entry.adjustment.into()),
    ]
}

fn assert_says(fields: &Fields, said: &[(&'static str, i128)]) {
    for (name, value) in said {
        let shown =
            fields.get(*name).and_then(|values| values.first()).unwrap_or_else(|| panic!("no {name}: {fields:?}"));
        assert_eq!(number(shown), *value, "{name} in {fields:?}");
    }
}

/// The fields put back where the codec's layouts have them give the bytes. So each is shown, from its own place, and whole.
fn put_back(bytes: &mut [u8], start: usize, fields: &Fields, layouts: &[&[Field]]) {
    let mut reserved = 0;
    for field in layouts.iter().copied().flatten() {
        let values = fields.get(field.name).unwrap_or_else(|| panic!("no {}: {fields:?}", field.name));
        let place = &mut bytes[start + field.offset..][..field.size];
        match field.name {
            "reserved" => {
                place.copy_from_slice(&octets(&values[reserved]));
                reserved += 1;
            }
            "mac" => place.copy_from_slice(&octets(&values[0])),
            _ => place.copy_from_slice(&number(&values[0]).to_be_bytes()[16 - field.size..]),
        }
    }
    assert_eq!(fields.get("reserved").map_or(0, Vec::len), reserved, "{fields:?}");
}

/// Every field of a legal frame is shown as the codec reads it. Gives the frame's type.
fn assert_shown_as_read(shown: &Shown) -> &'static str {
    let bytes = &shown.bytes;
    let (frame, trailer) = decode(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"));
    assert!(!shown.has_error(), "{:?}: {bytes:02x?}", shown.experts);
    let (name, body) = BODIES[usize::from(frame.message.kind()) - 1];
    let header = frame.header;
    assert_says(
        &shown.fields,
        &[
            ("magic", MAGIC.into()),
            ("version", VERSION.into()),
            ("type", frame.message.kind().into()),
            ("flags.authenticated", trailer.is_some().into()),
            ("length", i128::try_from(bytes.len()).expect("short")),
            ("domain", header.domain.get().into()),
            ("round", header.round.get().into()),
            ("term", header.term.get().into()),
            ("sender", header.sender.get().into()),
            ("incarnation", header.incarnation.get().into()),
        ],
    );
    assert_says(&shown.fields, &said(&frame.message));
    if let Message::Announce(announce) = frame.message {
        let shown = (1..=SUCCESSORS).filter_map(|place| shown.number(&format!("successor_{place}")));
        let said = announce.successors.iter().map(|node| i128::from(node.get()));
        assert!(shown.filter(|node| *node != 0).eq(said), "{bytes:02x?}");
    }
    let mut again = vec![0; bytes.len()];
    put_back(&mut again, 0, &shown.fields, &[layout::HEADER, body]);

    let entries: Vec<Entry> = if let Message::Correction(corrections) = frame.message {
        corrections.entries.iter().collect()
    } else {
        Vec::new()
    };
    assert_eq!(shown.entries.len(), entries.len());
    let first = HEADER_LEN + layout::CORRECTION.iter().map(|field| field.size).sum::<usize>();
    for (index, (fields, entry)) in shown.entries.iter().zip(&entries).enumerate() {
        assert_says(fields, &said_in_entry(entry));
        put_back(&mut again, first + index * ENTRY_LEN, fields, &[layout::ENTRY]);
    }
    assert_eq!(shown.trailer.is_some(), trailer.is_some());
    if let (Some(fields), Some(trailer)) = (&shown.trailer, trailer) {
        assert_says(
            fields,
            &[
                ("key_id", trailer.key_id.into()),
                ("recipient", trailer.recipient.map_or(0, |recipient| recipient.get().into())),
                ("sequence", trailer.sequence.into()),
            ],
        );
        put_back(&mut again, bytes.len() - TRAILER_LEN, fields, &[layout::TRAILER]);
    }
    assert_eq!(&again, bytes, "every byte of a {name} is shown");
    name
}

/// The expert info that a frame which the codec refuses has to bear, and a word of its message.
fn expected_expert(error: DecodeError) -> (&'static str, &'static str) {
    match error {
        DecodeError::TooShort { .. } => ("too_short", ""),
        DecodeError::Magic(_) => ("magic", ""),
        DecodeError::Version(_) => ("version", ""),
        DecodeError::Type(_) => ("type", ""),
        DecodeError::Count(_) => ("count", ""),
        DecodeError::Length { .. } => ("length", ""),
        DecodeError::OutOfRange(field) => ("out_of_range", field),
        DecodeError::Authenticated => panic!("the frame was read as its flags say"),
    }
}

/// A frame that the codec refuses is marked for just that reason; one that it takes bears no error.
fn assert_judged_as_read(shown: &Shown) {
    match decode(&shown.bytes) {
        Ok(_) => drop(assert_shown_as_read(shown)),
        Err(error) => {
            let (name, field) = expected_expert(error);
            let field = field.replace('_', " ");
            let is_marked = |(known, message, is_error): &(String, String, bool)| {
                known == name && message.contains(&field) && *is_error
            };
            let (experts, bytes) = (&shown.experts, &shown.bytes);
            assert!(experts.iter().any(is_marked), "{error}: {experts:?} of {bytes:02x?}");
        }
    }
}

// ---- frames that are written here ---------------------------------------------------------------------------------------

/// A legal frame with a change that leaves it legal, or not.
fn changed(vector: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = vector.to_vec();
    change(&mut bytes);
    bytes
}

#[test]
#[ignore = "needs tshark (apt-get install --no-install-recommends tshark): cargo test --test wireshark -- --ignored"]
fn vectors_and_damaged_frames_are_judged_as_the_codec_does() {
    let lab = Lab::new();
    let vectors = vectors();
    let path = lab.path("frames.pcap");
    let mut frames: Vec<Vec<u8>> = vectors.values().cloned().collect();
    for vector in vectors.values().filter(|vector| decode(vector).is_ok()) {
        // No datagram of no bytes reaches a dissector.
        frames.extend((1..vector.len()).map(|len| vector[..len].to_vec()));
        for place in 0..vector.len() {
            for value in [0x00, 0x41, 0xff] {
                frames.push(changed(vector, |bytes| bytes[place] = value));
            }
        }
        frames.push(changed(vector, |bytes| bytes.extend([0; 100])));
    }
    write_capture(&path, &frames);
    let shown = dissect(&path);
    assert_eq!(shown.len(), frames.len());
    for (shown, frame) in shown.iter().zip(&frames) {
        assert_eq!(&shown.bytes, frame);
        assert_judged_as_read(shown);
    }
    let kinds: BTreeSet<&str> =
        shown.iter().filter(|shown| decode(&shown.bytes).is_ok()).map(assert_shown_as_read).collect();
    assert_eq!(kinds, BODIES.iter().map(|(name, _)| *name).collect());
}

#[test]
#[ignore = "needs tshark (apt-get install --no-install-recommends tshark): cargo test --test wireshark -- --ignored"]
fn what_is_odd_is_marked() {
    let lab = Lab::new();
    let vectors = vectors();
    let trailer = vectors["bad_authenticated"][48..].to_vec();
    let cases: [(&str, Vec<u8>, &[&str]); 9] = [
        ("nothing", vectors["response"].clone(), &[]),
        ("a trailer", vectors["bad_authenticated"].clone(), &[]),
        ("t3 before t2", changed(&vectors["response"], |bytes| bytes.copy_within(40..48, 56)), &["implausible_times"]),
        ("a reserved bit", changed(&vectors["claim"], |bytes| bytes[46] = 0x80), &["reserved"]),
        ("a reserved byte", changed(&vectors["request"], |bytes| bytes[119] = 1), &["reserved"]),
        ("no trailer", changed(&vectors["leave"], |bytes| bytes[5] = 1), &["length", "no_trailer"]),
        ("one byte more", changed(&vectors["leave"], |bytes| bytes.push(0)), &["length", "trailing"]),
        ("no key", changed(&vectors["bad_authenticated"], |bytes| bytes[51] = 0), &["unknown_key"]),
        (
            "no recipient",
            changed(&vectors["refusal"], |bytes| {
                bytes[5] = 1;
                bytes[7] += 40;
                bytes.extend(&trailer);
                bytes[56..64].fill(0);
            }),
            &["unproven"],
        ),
    ];
    let path = lab.path("odd.pcap");
    write_capture(&path, &cases.each_ref().map(|(_, bytes, _)| bytes.clone()));
    for (shown, (what, _, expected)) in dissect(&path).iter().zip(&cases) {
        let names: BTreeSet<&str> = shown.experts.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, expected.iter().copied().collect(), "{what}: {:?}", shown.experts);
    }
}

/// Young nodes slew little and have no rate yet: the example of PROTOCOL.md has both.
#[test]
#[ignore = "needs tshark (apt-get install --no-install-recommends tshark): cargo test --test wireshark -- --ignored"]
fn an_offset_is_of_targets_rates_and_slews_included() {
    let lab = Lab::new();
    let vectors = vectors();
    let (request, response) = (&vectors["request"], &vectors["response"]);
    let next = changed(request, |bytes| {
        // It arrived 200,000 ns after its t1, and the next request leaves a second later.
        let t1 = i64::from_be_bytes(bytes[40..48].try_into().expect("eight bytes"));
        bytes[40..48].copy_from_slice(&(t1 + 1_000_000_000).to_be_bytes());
        bytes[72..80].copy_from_slice(&t1.to_be_bytes());
        bytes[80..88].copy_from_slice(&(t1 + 200_000).to_be_bytes());
    });
    // 1,000 ppm fast: 106 ns from t1 to t3.
    let request = changed(request, |bytes| bytes[56..64].copy_from_slice(&1_000_000_000_i64.to_be_bytes()));
    let path = lab.path("exchange.pcap");
    write_capture(&path, &[request, response.clone(), next]);
    let frames = dissect(&path);
    assert_eq!(assert_exchanges(&frames), 1);
    assert_eq!(frames[1].number("delay"), Some(200_000 - 12_333));
}

// ---- real nodes ---------------------------------------------------------------------------------------------------------

/// What three nodes and a fourth that cannot hear their master say from their election to the second fail-over. Gives the last term.
fn live_through_everything(lab: &Lab, keys: &str) -> u64 {
    let place = format!("127.0.0.1:{}", free_port());
    let options = |number: u64| format!("--node-id {number} --inject-offset {number}ms {keys}");
    // The one that the fourth knows.
    let group = format!("--group 239.255.5.25:{} --domain {}", lab.group_port, lab.group_port);
    let known = lab.start("node1", &format!("--bind {place} {group} {}", options(1)));
    let mut nodes = vec![lab.join("node2", &options(2)), lab.join("node3", &options(3)), known];
    let everybody = |nodes: &[Daemon]| agreed_master(&nodes.iter().collect::<Vec<_>>());
    let first = lab.until("one is master", || everybody(&nodes));
    lab.agree(&nodes.iter().collect::<Vec<_>>());

    // It hears nobody, claims, and is refused by a node that hears a master.
    let deaf = format!("--bind 127.0.0.1:0 --peer {place} --domain {} --node-id 9 {keys}", lab.group_port);
    let deaf = lab.start("deaf", &deaf);
    lab.until("a claim is refused", || (deaf.look()?.counters.received["refusal"] > 0).then_some(()));
    drop(deaf);

    let without = |nodes: &mut Vec<Daemon>, number: u64| {
        let index = nodes.iter().position(|node| node.name == format!("node{number}")).expect("one of them");
        nodes.remove(index)
    };
    without(&mut nodes, first).signal(Signal::SIGKILL);
    let second = lab.until("another one takes over", || everybody(&nodes).filter(|master| *master != first));
    lab.agree(&nodes.iter().collect::<Vec<_>>());
    let mut stops = without(&mut nodes, second);
    stops.signal(Signal::SIGTERM);
    assert_eq!(stops.end(lab).0, Some(0));
    lab.until("the last one takes over", || {
        everybody(&nodes).filter(|master| *master != second).and(nodes[0].look()).map(|status| status.term)
    })
}

/// Captures on the loopback interface what the nodes of a lab say; `None` where that is not allowed.
fn capture(lab: &Lab, keys: &str) -> Option<Vec<Shown>> {
    let path = lab.path("capture.pcapng");
    // By magic and domain, which begin 8 and 16 bytes into UDP: other tests have other domains.
    let filter = format!("udp[8:2] = 0x424b and udp[16:4] = {}", lab.group_port);
    let mut command = Command::new("dumpcap");
    // Bounded in any case: a minute, and far more frames than there are.
    command.args(["-q", "-i", "lo", "-a", "duration:60", "-c", "20000", "-f", &filter, "-w"]).arg(&path);
    let mut capture = lab.spawn("dumpcap", command, lab.path("none"));
    if !lab.until("it captures, or may not", || {
        let is_capturing = capture.log().contains("File: ");
        (is_capturing || !capture.is_alive()).then_some(is_capturing)
    }) {
        skip(&format!("dumpcap may not capture on lo: {}", capture.log()));
        return None;
    }
    let term = live_through_everything(lab, keys).to_be_bytes();
    // What is captured is written some time later; when the last master's announce is there, all before it is.
    let is_there = || {
        let bytes = fs::read(&path).ok()?;
        let mut frames = bytes.windows(HEADER_LEN).filter(|window| window.starts_with(&[0x42, 0x4b, 1, 7]));
        frames.any(|header| header[16..24] == term).then_some(())
    };
    lab.within(PATIENCE, "the capture has the last mastership", is_there);
    capture.signal(Signal::SIGINT);
    capture.end(lab);
    // Without a filter or details Wireshark builds no tree, and the list says the same.
    let list = tshark(&["-2", "-o", "udp.try_heuristic_first:TRUE", "-r", path.to_str().expect("a path")]);
    assert!(list.contains(": offset ") && !list.contains("Lua Error"), "{list}");
    Some(dissect(&path))
}

/// The offset of an exchange and its delay, by PROTOCOL.md, section 5.
fn measured(request: &Shown, response: &Shown, t4: i128) -> (i128, i128) {
    let asked = |name: &str| request.number(name).expect("a field of a request");
    let said = |name: &str| response.number(name).expect("a field of a response");
    let local = ((said("t2") - asked("t1")) + (said("t3") - t4)) / 2;
    let target_of_slave = said("t3") + said("ahead") + said("slew");
    let at_master = said("t3") - local;
    let gained = asked("rate") * (at_master - asked("t1")) / 1_000_000_000_000;
    (target_of_slave - (at_master + asked("ahead") + gained), (t4 - asked("t1")) - (said("t3") - said("t2")))
}

/// Requests and responses are shown together, and what they measured. How many exchanges there were.
fn assert_exchanges(frames: &[Shown]) -> usize {
    // Counted from 1; nothing else was captured.
    let frame = |number: i128| &frames[usize::try_from(number).expect("a frame's number") - 1];
    let mut exchanges = 0;
    for shown in frames {
        if let Some(number) = shown.number("response_in") {
            let response = frame(number);
            assert_eq!(response.number("t1"), shown.number("t1"));
            let seconds: f64 = response.fields["response_time"][0].parse().expect("seconds");
            assert!((0.0..1.0).contains(&seconds), "{seconds} s");
        }
        if let Some(number) = shown.number("exchange") {
            let response = frame(number);
            assert_eq!(response.number("t1"), shown.number("previous_t1"));
            let request = frame(response.number("response_to").expect("its request"));
            let (offset, delay) = measured(request, response, shown.number("previous_t4").expect("a field"));
            for frame in [shown, response] {
                assert_eq!(frame.number("delay"), Some(delay));
                let difference = frame.number("offset").expect("an offset") - offset;
                assert!(difference.abs() <= 1, "offset {offset} is shown {difference} ns larger");
            }
            exchanges += 1;
        }
    }
    exchanges
}

#[test]
#[ignore = "needs tshark (apt-get install --no-install-recommends tshark): cargo test --test wireshark -- --ignored"]
fn a_capture_of_real_nodes_is_shown_as_the_codec_reads_it() {
    let with_keys = |lab: &Lab| {
        let path = lab.path("keys");
        fs::write(&path, berkeleyd(&["keygen"]).stdout).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("private");
        format!("--key-file {}", path.display())
    };
    // Both at once: most of the time they wait.
    let captures = thread::scope(|scope| {
        let runs = [false, true].map(|has_keys| {
            scope.spawn(move || {
                let lab = Lab::new();
                let keys = if has_keys { with_keys(&lab) } else { String::new() };
                capture(&lab, &keys)
            })
        });
        runs.map(|run| run.join().expect("a capture"))
    });
    for (frames, has_keys) in captures.iter().flatten().zip([false, true]) {
        let kinds: BTreeSet<&str> = frames.iter().map(assert_shown_as_read).collect();
        assert_eq!(kinds, BODIES.iter().map(|(name, _)| *name).collect(), "all types occur");
        assert!(frames.iter().all(|shown| shown.trailer.is_some() == has_keys));
        assert!(frames.iter().all(|shown| shown.experts.is_empty()), "nothing is odd");
        let exchanges = assert_exchanges(frames);
        assert!(exchanges > 10, "{exchanges} of {} frames", frames.len());
    }
}
