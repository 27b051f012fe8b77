//! The log: one line an event on the standard error, for people, for the journal, or for programs (`--log-format json`).
//!
//! A line has a message and fields (`log`'s key-value pairs), and both forms are made of these. Names are those of programs: a span is a
//! whole number of nanoseconds in a field `..._ns`, which people read as `... = 1.500 ms`.

use std::env;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::OnceLock;

use env_logger::Builder;
use env_logger::fmt::Formatter;
use log::kv::{Key, Value, VisitSource};
use log::{Level, LevelFilter, Record, logger};
use serde_json::{Map, json};

use crate::failure::Failure;
use crate::run_config::LogFormat;
use crate::time::Span;

/// What the log was started with.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Starts the log. `RUST_LOG` wins over `level`.
pub fn start(level: LevelFilter, format: LogFormat) {
    let _ = FORMAT.set(format);
    // The level is `log`'s own, which can be set again; what an operator says by target is left to the logger.
    let mut builder = Builder::new();
    if has_filter() {
        builder.filter_level(level).parse_default_env();
    } else {
        builder.filter_level(LevelFilter::Trace);
    }
    let is_journal = is_journal();
    builder
        .format(move |out, record| {
            if is_journal {
                // The journal takes the priority from a prefix (sd-daemon(3)).
                write!(out, "<{}>", priority(record.level()))?;
            }
            match format {
                LogFormat::Text => write_text(out, record, is_journal),
                LogFormat::Json => write_json(out, record),
            }
        })
        .init();
    set_level(level);
}

/// Logs so much from now on, unless `RUST_LOG` says how much.
pub fn set_level(level: LevelFilter) {
    if !has_filter() {
        log::set_max_level(level);
    }
}

/// Says why the program ends, whatever else is logged: a plain line, or an object when the log is for programs.
pub fn tell(failure: &Failure) {
    let mut record = Record::builder();
    record.level(Level::Error).target("berkeleyd");
    if FORMAT.get() == Some(&LogFormat::Json) && logger().enabled(record.build().metadata()) {
        logger().log(&record.args(format_args!("{failure}")).build());
    } else {
        // Nobody is left to tell when the standard error is closed.
        let _ = writeln!(io::stderr().lock(), "{failure}");
    }
}

fn has_filter() -> bool {
    env::var_os("RUST_LOG").is_some_and(|filter| !filter.is_empty())
}

/// Whether the standard error is the journal that systemd names, and not a file it was redirected to.
fn is_journal() -> bool {
    let stream = env::var("JOURNAL_STREAM").unwrap_or_default();
    nix::sys::stat::fstat(io::stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// syslog's number for a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

fn write_text(out: &mut Formatter, record: &Record<'_>, is_journal: bool) -> io::Result<()> {
    let level = record.level();
    let mut fields = TextFields::default();
    // It refuses nothing.
    let _ = record.key_values().visit(&mut fields);
    let (message, fields) = (record.args(), fields.text);
    if is_journal {
        // It keeps the time itself.
        return writeln!(out, "{level:<5} {message}{fields}");
    }
    let (time, style) = (out.timestamp_millis(), out.default_level_style(level));
    writeln!(out, "{time} {style}{level:<5}{style:#} {message}{fields}")
}

fn write_json(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let mut fields = JsonFields(Map::new());
    let _ = record.key_values().visit(&mut fields);
    let JsonFields(mut object) = fields;
    object.insert("time".to_owned(), json!(out.timestamp_micros().to_string()));
    object.insert("level".to_owned(), json!(record.level().as_str().to_lowercase()));
    object.insert("target".to_owned(), json!(record.target()));
    object.insert("message".to_owned(), json!(record.args().to_string()));
    writeln!(out, "{}", serde_json::Value::Object(object))
}

/// Fields for people: ` name=value` each.
#[derive(Default)]
struct TextFields {
    text: String,
}

impl<'kvs> VisitSource<'kvs> for TextFields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        let span = key.as_str().strip_suffix("_ns").zip(value.to_i64());
        let name = span.map_or(key.as_str(), |(name, _)| name).replace('_', "-");
        let shown = match (span, value.to_bool()) {
            (Some((_, nanos)), _) => Span::from_nanos(nanos).to_string(),
            (None, Some(is_on)) => if is_on { "on" } else { "off" }.to_owned(),
            (None, None) => value.to_string(),
        };
        write!(self.text, " {name}={shown}").map_err(|fmt::Error| log::kv::Error::msg("no memory"))
    }
}

/// Fields for programs.
struct JsonFields(Map<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for JsonFields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        let value = match (value.to_u64(), value.to_i64(), value.to_bool()) {
            (Some(number), _, _) => json!(number),
            (None, Some(number), _) => json!(number),
            (None, None, Some(claim)) => json!(claim),
            (None, None, None) => json!(value.to_string()),
        };
        self.0.insert(key.to_string(), value);
        Ok(())
    }
}
