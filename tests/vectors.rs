//! The wire format against what is written about it: the vectors of `tests/vectors/` both ways, and the tables,
//! limits and examples of PROTOCOL.md.
//!
//! A vector is a text file. `#` starts a comment. `name = value` lines give the fields by their names in PROTOCOL.md,
//! `entry` starts the next entry of a correction, `trailer` the trailer of an authenticated frame, whose key the line `key = ...` has in
//! hexadecimal, and behind `hex` stand the bytes, one field a row; a row that starts
//! with white space continues the one above. Bytes in a file with `error = ...` are refused with just that error.
//!
//! Nothing here asks the codec where a field lies: the rows say so, and are compared with the tables and the codec.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use berkeleyd::auth::{Opened, Sequence};
use berkeleyd::identity::{Domain, Incarnation, NodeId, Round, Term};
use berkeleyd::keys::{Key, KeyId, KeyRing, Lifetime};
use berkeleyd::protocol::{
    Acknowledgement, Announce, Answered, Claim, Corrections, Departure, Entry, Field, Frame, HEADER_LEN, Header,
    Heartbeat, Join, Leave, MAX_ENTRIES, MAX_FRAME_LEN, Merit, Message, Outcome, Refusal, Request, Response,
    SUCCESSORS, Successors, TRAILER_LEN, Window, correction_len, layout,
};
use berkeleyd::time::{LocalTime, Skew, Span, WIRE_LIMIT};
use bytes::BytesMut;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// One row of a hex block: a field's name and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    name: String,
    bytes: Vec<u8>,
}

impl Row {
    /// The bytes as one big-endian number, signed when `signed`.
    fn number(&self, signed: bool) -> i128 {
        let sign = signed && self.bytes.first().is_some_and(|first| first & 0x80 != 0);
        self.bytes.iter().fold(if sign { -1 } else { 0 }, |number, byte| (number << 8) | i128::from(*byte))
    }
}

/// The fields of a frame, or of one of its entries.
#[derive(Debug, Default)]
struct Group {
    values: Vec<(String, i128)>,
    rows: Vec<Row>,
}

impl Group {
    fn value(&self, name: &str) -> Result<i128, String> {
        let found = self.values.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| *value).ok_or_else(|| format!("no value for {name}"))
    }

    fn number<T: TryFrom<i128>>(&self, name: &str) -> Result<T, String> {
        T::try_from(self.value(name)?).map_err(|_| format!("{name} does not fit its field"))
    }

    fn local_time(&self, name: &str) -> Result<LocalTime, String> {
        self.number(name).map(LocalTime::from_nanos)
    }

    fn span(&self, name: &str) -> Result<Span, String> {
        self.number(name).map(Span::from_nanos)
    }

    fn skew(&self, name: &str) -> Result<Skew, String> {
        self.number(name).map(Skew::from_ppt)
    }

    /// What a response says of the one before; nothing when the field has its largest number.
    fn departure(&self) -> Result<Option<Departure>, String> {
        let late: u32 = self.number("t3_late")?;
        let (t1, span) = (self.local_time("previous_t1")?, Span::from_nanos(late.into()));
        Ok((late != u32::MAX).then_some(Departure { t1, late: span }))
    }

    /// What a request says of the exchange before; nothing when `previous_t4` is not known.
    fn answered(&self) -> Result<Option<Answered>, String> {
        let (t1, t4) = (self.local_time("previous_t1")?, self.local_time("previous_t4")?);
        Ok((t4 != LocalTime::from_nanos(i64::MAX)).then_some(Answered { t1, t4 }))
    }

    /// True when the bit of a field of flags is set.
    fn has_bit(&self, name: &str, bit: u32) -> Result<bool, String> {
        Ok((self.value(name)? >> bit) & 1 == 1)
    }

    /// Rows and values say the same, reserved rows are zero, and no field is without a value.
    fn check(&self) -> Result<(), String> {
        for row in &self.rows {
            // The code is not a number: it is compared with all the other bytes.
            if row.name == "mac" {
                continue;
            }
            if row.name == "reserved" {
                if row.bytes.iter().any(|byte| *byte != 0) {
                    return Err("reserved bytes are not zero".into());
                }
                continue;
            }
            let value = self.value(&row.name)?;
            let number = row.number(value < 0);
            if value != number {
                return Err(format!("{} = {value}, but its row says {number}", row.name));
            }
        }
        let rows: BTreeSet<&str> = self.rows.iter().map(|row| row.name.as_str()).collect();
        match self.values.iter().find(|(name, _)| !rows.contains(name.as_str())) {
            Some((name, _)) => Err(format!("{name} has no row")),
            None => Ok(()),
        }
    }
}

/// One file: the frame's own fields, then its entries, then the trailer of a frame that has a key.
#[derive(Debug, Default)]
struct Vector {
    error: Option<String>,
    key: Option<Vec<u8>>,
    frame: Group,
    entries: Vec<Group>,
    trailer: Group,
}

/// To which part of a vector a line belongs.
enum Place {
    Frame,
    /// So many entries have begun.
    Entry(usize),
    Trailer,
}

/// Reads a number: decimal, `0x` for hexadecimal, `unknown` for an error bound that is not known.
fn number(text: &str) -> Result<i128, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => i128::from_str_radix(digits, 16),
        None if text == "unknown" => Ok(i64::MAX.into()),
        None => text.parse(),
    };
    number.map_err(|error| format!("{text}: {error}"))
}

fn hex(words: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<char> = words.split_whitespace().flat_map(str::chars).collect();
    let byte = |pair: &[char]| {
        let text: String = pair.iter().collect();
        u8::from_str_radix(&text, 16).ok().filter(|_| pair.len() == 2).ok_or_else(|| format!("not bytes: {words}"))
    };
    digits.chunks(2).map(byte).collect()
}

/// Reads one line of a hex block, its comment cut off, into `rows`.
fn hex_row(line: &str, rows: &mut Vec<Row>) -> Result<(), String> {
    if line.starts_with(' ') {
        let last = rows.last_mut().ok_or("the first row has no name")?;
        last.bytes.extend(hex(line)?);
    } else {
        let (name, words) = line.split_once(' ').ok_or_else(|| format!("a row without bytes: {line}"))?;
        rows.push(Row { name: name.into(), bytes: hex(words)? });
    }
    Ok(())
}

/// The lines that are left when comments, trailing spaces and empty lines are gone.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split('#').next().unwrap_or(line).trim_end()).filter(|line| !line.is_empty())
}

impl Vector {
    fn parse(text: &str) -> Result<Self, String> {
        let mut vector = Self::default();
        let mut in_hex = false;
        let mut place = Place::Frame;
        for line in lines(text) {
            match line {
                "hex" => (in_hex, place) = (true, Place::Frame),
                "entry" => {
                    let begun = if let Place::Entry(begun) = place { begun + 1 } else { 1 };
                    if vector.entries.len() < begun {
                        vector.entries.push(Group::default());
                    }
                    place = Place::Entry(begun);
                }
                "trailer" => place = Place::Trailer,
                _ => {
                    let group = match place {
                        Place::Frame => &mut vector.frame,
                        Place::Entry(begun) => vector.entries.get_mut(begun - 1).ok_or("no such entry")?,
                        Place::Trailer => &mut vector.trailer,
                    };
                    if in_hex {
                        hex_row(line, &mut group.rows)?;
                        continue;
                    }
                    match line.split_once(" = ").ok_or_else(|| format!("neither value nor heading: {line}"))? {
                        ("error", value) => vector.error = Some(value.into()),
                        ("key", value) => vector.key = Some(hex(value)?),
                        (name, value) => group.values.push((name.into(), number(value)?)),
                    }
                }
            }
        }
        Ok(vector)
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        std::iter::once(&self.frame).chain(&self.entries).chain([&self.trailer])
    }

    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.groups().flat_map(|group| &group.rows)
    }

    fn bytes(&self) -> Vec<u8> {
        self.rows().flat_map(|row| row.bytes.iter().copied()).collect()
    }

    fn header(&self) -> Result<Header, String> {
        Ok(Header {
            domain: Domain::new(self.frame.number("domain")?),
            round: Round::new(self.frame.number("round")?),
            term: Term::new(self.frame.number("term")?),
            sender: NodeId::new(self.frame.number("sender")?),
            incarnation: Incarnation::new(self.frame.number("incarnation")?),
        })
    }

    /// What the trailer says.
    fn seal(&self) -> Result<(KeyId, Option<Incarnation>, Sequence), String> {
        let recipient = Some(self.trailer.number("recipient")?).filter(|recipient| *recipient != 0);
        let id = KeyId::new(self.trailer.number("key_id")?);
        Ok((id, recipient.map(Incarnation::new), Sequence::new(self.trailer.number("sequence")?)))
    }

    fn typed_entries(&self) -> Result<Vec<Entry>, String> {
        let entry = |group: &Group| {
            Ok(Entry {
                node: NodeId::new(group.number("node")?),
                node_incarnation: Incarnation::new(group.number("node_incarnation")?),
                reference: group.local_time("reference")?,
                correction: group.span("correction")?,
                rate: group.skew("rate")?,
                error_bound: group.span("error_bound")?,
                rate_error: group.skew("rate_error")?,
                adjustment: group.number("adjustment")?,
            })
        };
        self.entries.iter().map(entry).collect()
    }

    /// The message that the values stand for; that of a correction holds `entries`.
    fn message<'a>(&self, entries: &'a [Entry]) -> Result<Message<'a>, String> {
        let frame = &self.frame;
        Ok(match frame.value("type")? {
            1 => Message::Request(Request {
                t1: frame.local_time("t1")?,
                ahead: frame.span("ahead")?,
                rate: frame.skew("rate")?,
                error_bound: frame.span("error_bound")?,
                previous: frame.answered()?,
                window: Some(Span::from_micros(frame.number("window")?))
                    .filter(|span| *span != Span::ZERO)
                    .map(Window::new),
            }),
            2 => Message::Response(Response {
                t1: frame.local_time("t1")?,
                t2: frame.local_time("t2")?,
                t3: frame.local_time("t3")?,
                ahead: frame.span("ahead")?,
                slew: frame.span("slew")?,
                rate: frame.skew("rate")?,
                error_bound: frame.span("error_bound")?,
                adjustment: frame.number("adjustment")?,
                applied_round: Round::new(frame.number("applied_round")?),
                previous: frame.departure()?,
                is_reference: frame.has_bit("response_flags", 0)?,
                is_synchronised: frame.has_bit("response_flags", 1)?,
                is_stamped_near_the_wire: frame.has_bit("response_flags", 2)?,
            }),
            3 => Message::Correction(Corrections {
                previous: frame.answered()?,
                by_response: frame.has_bit("correction_flags", 0)?,
                ..Corrections::of(entries)
            }),
            4 => Message::Acknowledgement(Acknowledgement {
                adjustment: frame.number("adjustment")?,
                outcome: match frame.value("outcome")? {
                    1 => Outcome::Stepped,
                    2 => Outcome::Slewed,
                    3 => Outcome::Refused,
                    unknown => return Err(format!("no outcome {unknown}")),
                },
            }),
            5 => {
                let master = NodeId::new(frame.number("master")?);
                let incarnation = Incarnation::new(frame.number("master_incarnation")?);
                Message::Join(Join {
                    priority: frame.number("priority")?,
                    is_reference: frame.has_bit("join_flags", 0)?,
                    hears_group: frame.has_bit("join_flags", 2)?,
                    master: (master.get() != 0).then_some((master, incarnation)),
                    merit: merit(frame)?,
                    corrected_in: Some(NodeId::new(frame.number("corrected_master")?))
                        .filter(|node| node.get() != 0)
                        .map(|node| Ok::<_, String>((Term::new(frame.number("corrected_term")?), node)))
                        .transpose()?,
                    rate_error: frame.skew("rate_error")?,
                })
            }
            6 => Message::Leave(Leave { successor: somebody(frame, "successor")? }),
            7 => Message::Announce(Announce {
                interval: frame.span("interval")?,
                priority: frame.number("priority")?,
                merit: merit(frame)?.ok_or("no merit")?,
                heartbeat: Heartbeat::new(Span::from_millis(10 * frame.number::<i64>("heartbeat")?)),
                members: frame.number("members")?,
                successors: {
                    let named = |place| somebody(frame, &format!("successor_{place}"));
                    let named: Vec<Option<NodeId>> = (1..=SUCCESSORS).map(named).collect::<Result<_, _>>()?;
                    Successors::new(named.into_iter().flatten())
                },
            }),
            8 => Message::Claim(Claim {
                priority: frame.number("priority")?,
                merit: merit(frame)?.ok_or("no merit")?,
                is_handover: frame.has_bit("claim_flags", 0)?,
            }),
            9 => Message::Refusal(Refusal { master: somebody(frame, "master")? }),
            unknown => return Err(format!("no type {unknown}")),
        })
    }
}

/// The node that a field names; 0 is none.
fn somebody(frame: &Group, name: &str) -> Result<Option<NodeId>, String> {
    Ok(Some(NodeId::new(frame.number(name)?)).filter(|node| node.get() != 0))
}

fn merit(frame: &Group) -> Result<Option<Merit>, String> {
    Ok(match frame.value("merit")? {
        0 => None,
        1 => Some(Merit::Implausible),
        2 => Some(Merit::Plausible),
        3 => Some(Merit::Established),
        4 => Some(Merit::Appointed),
        unknown => return Err(format!("no merit {unknown}")),
    })
}

/// Every vector with its file's name, in the order of the names.
fn vectors() -> Result<Vec<(String, Vector)>, String> {
    let directory = root().join("tests/vectors");
    let mut vectors = Vec::new();
    for file in fs::read_dir(&directory).map_err(|error| error.to_string())? {
        let path = file.map_err(|error| error.to_string())?.path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).ok_or("a file without a name")?;
        vectors.push((name.clone(), Vector::parse(&read(&path)?).map_err(|error| format!("{name}: {error}"))?));
    }
    vectors.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(vectors)
}

fn vector(file: &str) -> Result<Vector, String> {
    Vector::parse(&read(&root().join("tests/vectors").join(file))?)
}

/// The layout of the body of a type.
fn body_of(kind: i128) -> Result<&'static [Field], String> {
    Ok(match kind {
        1 => layout::REQUEST,
        2 => layout::RESPONSE,
        3 => layout::CORRECTION,
        4 => layout::ACKNOWLEDGEMENT,
        5 => layout::JOIN,
        6 => layout::LEAVE,
        7 => layout::ANNOUNCE,
        8 => layout::CLAIM,
        9 => layout::REFUSAL,
        unknown => return Err(format!("no type {unknown}")),
    })
}

/// Name, offset and size of each row.
fn places<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Vec<(String, usize, usize)> {
    let mut offset = 0;
    let place = |row: &Row| {
        let start = offset;
        offset += row.bytes.len();
        (row.name.clone(), start, row.bytes.len())
    };
    rows.into_iter().map(place).collect()
}

fn places_of(fields: &[Field]) -> Vec<(String, usize, usize)> {
    fields.iter().map(|field| (field.name.to_owned(), field.offset, field.size)).collect()
}

#[test]
fn frames_encode_to_their_bytes_and_back() {
    let mut kinds = BTreeSet::new();
    for (file, vector) in vectors().unwrap().iter().filter(|(_, vector)| vector.error.is_none()) {
        let entries = vector.typed_entries().unwrap();
        let message = vector.message(&entries).unwrap_or_else(|error| panic!("{file}: {error}"));
        let frame = Frame { header: vector.header().unwrap(), message };
        let mut encoded = BytesMut::new();
        frame.encode(&mut encoded);
        if let Some(key) = &vector.key {
            let (id, recipient, sequence) = vector.seal().unwrap();
            let key = (id, Key::new(key.as_slice().try_into().unwrap()), Lifetime::default());
            let mut ring = KeyRing::new([key]).unwrap();
            ring.seal(&mut encoded, recipient, sequence, None);
            let opened = ring.open(&vector.bytes(), None);
            assert_eq!(opened, Ok(Opened { key: id, recipient, sequence }), "{file}");
            assert_eq!(Frame::decode_authenticated(&vector.bytes()), Ok(frame), "{file}");
        } else {
            assert_eq!(Frame::decode(&vector.bytes()), Ok(frame), "{file}");
        }
        assert_eq!(encoded, vector.bytes(), "{file}");
        kinds.insert(vector.frame.value("type").unwrap());
    }
    assert_eq!(kinds, (1..=9).collect(), "every type has a vector");
}

#[test]
fn bad_frames_are_refused_with_the_error_they_name() {
    let mut variants = BTreeSet::new();
    for (file, vector) in &vectors().unwrap() {
        let Some(expected) = &vector.error else { continue };
        let error = Frame::decode(&vector.bytes()).expect_err(file);
        assert_eq!(&format!("{error:?}"), expected, "{file}");
        variants.extend(expected.split([' ', '(']).next().map(str::to_owned));
    }
    let all = ["TooShort", "Magic", "Version", "Authenticated", "Type", "Count", "Length", "OutOfRange"];
    assert_eq!(variants, all.map(str::to_owned).into(), "every error has a vector");
}

#[test]
fn rows_say_what_the_values_say_and_lie_where_the_layout_says() {
    for (file, vector) in vectors().unwrap().iter().filter(|(_, vector)| vector.error.is_none()) {
        for group in vector.groups() {
            group.check().unwrap_or_else(|error| panic!("{file}: {error}"));
        }
        let body = body_of(vector.frame.value("type").unwrap()).unwrap();
        assert_eq!(places(&vector.frame.rows), places_of(&[layout::HEADER, body].concat()), "{file}");
        for entry in &vector.entries {
            assert_eq!(places(&entry.rows), places_of(layout::ENTRY), "{file}");
        }
        let trailer: &[Field] = if vector.key.is_some() { layout::TRAILER } else { &[] };
        assert_eq!(places(&vector.trailer.rows), places_of(trailer), "{file}");
    }
}

/// A table of PROTOCOL.md: the heading it stands under, the names of its columns, its cells.
#[derive(Debug)]
struct Table {
    heading: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// The cells of each row in the named columns. None when the table does not have them.
    fn cells<const N: usize>(&self, names: [&str; N]) -> Option<Vec<[String; N]>> {
        let place = |name: &&str| self.columns.iter().position(|column| column == name);
        let places: Vec<usize> = names.iter().map(place).collect::<Option<_>>()?;
        let pick = |row: &'_ [String]| places.iter().filter_map(|at| row.get(*at)).cloned().collect::<Vec<_>>();
        self.rows.iter().map(|row| pick(row).try_into().ok()).collect()
    }
}

fn protocol() -> String {
    read(&root().join("PROTOCOL.md")).unwrap_or_default()
}

fn tables() -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    let mut heading = String::new();
    let mut in_table = false;
    for line in protocol().lines() {
        if let Some(text) = line.strip_prefix('#') {
            heading = text.trim_start_matches('#').trim().to_owned();
        }
        let Some(cells) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else {
            in_table = false;
            continue;
        };
        let cells: Vec<String> = cells.split('|').map(|cell| cell.trim().to_owned()).collect();
        if !in_table {
            tables.push(Table { heading: heading.clone(), columns: cells, rows: Vec::new() });
            in_table = true;
        } else if let Some(table) = tables.last_mut().filter(|_| !cells.iter().all(|cell| cell == "---")) {
            table.rows.push(cells);
        }
    }
    tables
}

/// The cells in the named columns of the only table under `heading` that has them.
fn table<const N: usize>(heading: &str, columns: [&str; N]) -> Vec<[String; N]> {
    let all = tables();
    let mut found = all.iter().filter(|table| table.heading == heading).filter_map(|table| table.cells(columns));
    let cells = found.next().unwrap_or_default();
    assert!(!cells.is_empty() && found.next().is_none(), "one table with {columns:?} under {heading}");
    cells
}

#[test]
fn tables_of_fields_say_what_the_code_says() {
    const OFFSETS: [&str; 3] = ["offset", "offset in the entry", "offset from the end of the body"];
    let documented: Vec<_> = tables()
        .iter()
        .filter_map(|table| {
            OFFSETS.iter().find_map(|offset| Some((table, table.cells(["field", offset, "size", "type"])?)))
        })
        .map(|(table, cells)| {
            let field = |[name, offset, size, kind]: [String; 4]| {
                let size: usize = size.parse().unwrap();
                let expected = match kind.as_str() {
                    "u8" => Some(1),
                    "u16" => Some(2),
                    "u32" | "i32" => Some(4),
                    "u64" | "local time" | "span" | "bound" | "rate" => Some(8),
                    "bits" => Some(2),
                    _ => None,
                };
                assert!(expected.is_none_or(|expected| expected == size), "{}: {name}", table.heading);
                (name, offset.parse().unwrap(), size)
            };
            (table.heading.clone(), cells.into_iter().map(field).collect::<Vec<_>>())
        })
        .collect();
    let coded = [
        ("Header", layout::HEADER),
        ("Trailer", layout::TRAILER),
        ("1: request", layout::REQUEST),
        ("2: response", layout::RESPONSE),
        ("3: correction", layout::CORRECTION),
        ("3: correction", layout::ENTRY),
        ("4: acknowledgement", layout::ACKNOWLEDGEMENT),
        ("5: join", layout::JOIN),
        ("6: leave", layout::LEAVE),
        ("7: announce", layout::ANNOUNCE),
        ("8: claim", layout::CLAIM),
        ("9: refusal", layout::REFUSAL),
    ];
    assert_eq!(documented, coded.map(|(heading, fields)| (heading.to_owned(), places_of(fields))));
}

#[test]
fn types_and_lengths_are_the_documented_ones() {
    let lengths = [
        Request::WIRE_LEN.to_string(),
        Response::WIRE_LEN.to_string(),
        format!("{} + {} × count", correction_len(0), correction_len(1) - correction_len(0)),
        Acknowledgement::WIRE_LEN.to_string(),
        Join::WIRE_LEN.to_string(),
        Leave::WIRE_LEN.to_string(),
        Announce::WIRE_LEN.to_string(),
        Claim::WIRE_LEN.to_string(),
        Refusal::WIRE_LEN.to_string(),
    ];
    let rows = table("3. Message types", ["type", "name", "length"]);
    assert_eq!(rows.len(), lengths.len());
    for ([kind, name, length], expected) in rows.into_iter().zip(lengths) {
        assert_eq!(length, expected, "{name}");
        // A vector of the same name has the type, which the codec is compared with elsewhere.
        assert_eq!(vector(&format!("{name}.txt")).unwrap().frame.value("type").unwrap().to_string(), kind);
    }
}

#[test]
fn limits_in_the_text_are_those_of_the_code() {
    let text = protocol().split_whitespace().collect::<Vec<_>>().join(" ");
    for claim in [
        format!("a header of {HEADER_LEN} bytes"),
        format!("a trailer of {TRAILER_LEN} bytes"),
        format!("No frame is longer than {MAX_FRAME_LEN} bytes."),
        format!("entries that follow, 1 to {MAX_ENTRIES} |"),
        format!("`count` entries of {} bytes", correction_len(1) - correction_len(0)),
        format!("| too_short | fewer than {HEADER_LEN} bytes |"),
        format!("a correction with no entries or more than {MAX_ENTRIES} |"),
        format!("| type | 3 | 1 | u8 | 1 to {} |", table("3. Message types", ["type"]).len()),
    ] {
        assert!(text.contains(&claim), "not in PROTOCOL.md: {claim}");
    }
    // As many entries as fit, and not one more.
    assert!(correction_len(MAX_ENTRIES) + TRAILER_LEN <= MAX_FRAME_LEN);
    assert!(correction_len(MAX_ENTRIES + 1) + TRAILER_LEN > MAX_FRAME_LEN);

    let ranges = table("Units", ["kind", "range (both ends included)"]);
    let range_of = |kind| ranges.iter().find(|[name, _]| name == kind).map(|[_, range]| range.as_str());
    assert_eq!(WIRE_LIMIT, 1 << 62);
    assert_eq!(range_of("local time"), Some("0 to 2^62 - 1"));
    assert_eq!(range_of("span"), Some("-(2^62 - 1) to 2^62 - 1"));
    assert_eq!(Span::MAX.as_nanos(), i64::MAX);
    assert_eq!(range_of("bound"), Some("0 to 2^62 - 1, or 2^63 - 1: not known"));
    assert_eq!(Skew::MAX.as_ppt(), 10_i64.pow(11));
    assert_eq!(range_of("rate"), Some("-10^11 to 10^11"));
    assert_eq!(Term::LIMIT.get(), 1 << 48);
    assert!(table("Header", ["field", "range"]).contains(&["term".to_owned(), "0 to 2^48".to_owned()]));
}

#[test]
fn examples_in_the_text_are_the_vectors() {
    let text = protocol();
    let (_, section) = text.split_once("\n## 8. Worked examples\n").unwrap();
    let block = section.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let examples: Vec<Vec<Row>> = block
        .split("\n\n")
        .map(|example| {
            let mut rows = Vec::new();
            lines(example).for_each(|line| hex_row(line, &mut rows).unwrap());
            rows
        })
        .collect();
    let expected: Vec<Vec<Row>> =
        ["request.txt", "response.txt"].iter().map(|file| vector(file).unwrap().frame.rows).collect();
    assert_eq!(examples, expected);
}
