//! The Berkeley algorithm of the textbooks, with this library's averages and nothing else: no network, no waiting.
//!
//! A few clocks that are wrong at random, most by seconds, some by minutes; one synchronisation with each
//! averaging function; what every clock showed before and shows after. The first clock is the master's.
//!
//! ```text
//! cargo run --example textbook
//! cargo run --example textbook -- 9 --seed 42 --average fault-tolerant --gamma 10s
//! ```

use std::io::{self, Write};
use std::process::ExitCode;

use berkeleyd::average::{Average, Reading, Standing, Verdict};
use berkeleyd::time::{Span, Time};
use clap::Parser;

/// True time in this example, which none of the clocks knows: three o'clock, as in the textbooks.
const THREE_OCLOCK: Time = Time::from_nanos(3 * 3_600 * 1_000_000_000);
/// How wrong an ordinary clock is at most, either way: most of them agree within the default gamma.
const ORDINARY_ERROR: Span = Span::from_secs(8);
/// How wrong a bad clock is at most, as far as the ones in the textbooks.
const BAD_ERROR: Span = Span::from_secs(25 * 60);
/// One clock in so many is bad.
const BAD_ONE_IN: u64 = 5;
/// What is said of a clock's accuracy lies between a tenth of this and this; `weighted` goes by it.
const LARGEST_BOUND: Span = Span::from_secs(10);

/// One synchronisation of random clocks by the Berkeley algorithm, before and after
#[derive(Debug, Parser)]
#[command(name = "textbook")]
struct Arguments {
    /// How many clocks, the master's included (1 to 1000)
    #[arg(default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    nodes: u16,
    /// Repeat the clocks of an earlier run [default: from the operating system]
    #[arg(long)]
    seed: Option<u64>,
    /// mean, fault-tolerant, midpoint or weighted [default: one after the other]
    #[arg(long, value_name = "NAME")]
    average: Option<Average>,
    /// How close clocks must be to count as agreeing
    #[arg(long, value_name = "DUR", default_value = "20s")]
    gamma: Span,
}

/// What one clock shows when it is truly three o'clock, and how good it is said to be.
struct Clock {
    shows: Time,
    error_bound: Span,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(help) if !help.use_stderr() => {
            return if help.print().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Err(error) => return complain(error.to_string().lines().next().unwrap_or("error: bad arguments"), 2),
    };
    match run(&arguments, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads only the first lines, as `head` does, has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => complain(&format!("error: {error}"), 1),
    }
}

/// One line on stderr. When even that is gone, the exit status has to do.
fn complain(complaint: &str, status: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "{complaint}");
    ExitCode::from(status)
}

fn run(arguments: &Arguments, out: &mut impl Write) -> io::Result<()> {
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => getrandom::u64()?,
    };
    let clocks = random_clocks(arguments.nodes, seed);
    writeln!(out, "{} clocks, gamma {}, seed {seed}", clocks.len(), arguments.gamma)?;
    for average in Average::ALL {
        if arguments.average.is_none_or(|chosen| chosen == average) {
            synchronise(&clocks, average, arguments.gamma, out)?;
        }
    }
    Ok(())
}

/// The Berkeley algorithm: differences, their average, and a correction for each clock, the master's too.
fn synchronise(clocks: &[Clock], average: Average, gamma: Span, out: &mut impl Write) -> io::Result<()> {
    let Some(master) = clocks.first() else { return Ok(()) };
    let reading = |clock: &Clock| Reading {
        offset: clock.shows.offset_from(master.shows),
        error_bound: clock.error_bound,
        weight: None,
        standing: Standing::Member,
    };
    let readings: Vec<Reading> = clocks.iter().map(reading).collect();
    let Some(ensemble) = average.of(&readings, gamma, false) else { return Ok(()) };

    writeln!(out, "\n{average}: {}", explanation(average))?;
    writeln!(
        out,
        "  {:<9} {:<12} {:>14} {:>10} {:>14}  {:<12}  counted",
        "clock", "before", "offset", "bound", "correction", "after"
    )?;
    let mut after = Vec::with_capacity(clocks.len());
    for (number, ((clock, reading), verdict)) in clocks.iter().zip(&readings).zip(&ensemble.verdicts).enumerate() {
        let correction = reading.offset.correction(ensemble.offset);
        let corrected = clock.shows + correction;
        after.push(corrected);
        let name = if number == 0 { "master".to_owned() } else { format!("slave {number}") };
        let counted = match verdict {
            Verdict::Counted => "yes".to_owned(),
            Verdict::LeftOut(reason) => format!("no: {reason}"),
        };
        writeln!(
            out,
            "  {name:<9} {:<12} {:>14} {:>10} {:>14}  {:<12}  {counted}",
            time_of_day(clock.shows),
            signed(reading.offset.ahead()),
            format!("{:.3} s", clock.error_bound.as_secs_f64()),
            signed(correction),
            time_of_day(corrected),
        )?;
    }
    let before: Vec<Time> = clocks.iter().map(|clock| clock.shows).collect();
    let offset = signed(ensemble.offset.ahead());
    writeln!(out, "  ensemble offset {offset}, spread {} before, {} after", spread(&before), spread(&after))
}

/// The average in a few words.
fn explanation(average: Average) -> &'static str {
    match average {
        Average::Mean => "every clock equally, the wrong ones too",
        Average::FaultTolerant => "the largest set of clocks within gamma of each other, averaged",
        Average::Midpoint => "the middle between the ends, less the f = (n - 1) / 3 clocks at each that may lie",
        Average::Weighted => "each clock by the inverse square of its error bound",
    }
}

/// Clocks that depend on nothing but `seed`.
fn random_clocks(count: u16, seed: u64) -> Vec<Clock> {
    let mut random = SplitMix64(seed);
    let mut clock = || {
        let error = if random.below(BAD_ONE_IN) == 0 { BAD_ERROR } else { ORDINARY_ERROR };
        let tenth = LARGEST_BOUND.part(10);
        Clock {
            shows: THREE_OCLOCK - error + random.span_below(error.times(2)),
            error_bound: tenth + random.span_below(LARGEST_BOUND - tenth),
        }
    };
    (0..count).map(|_| clock()).collect()
}

/// The generator of Steele, Lea and Flood (2014): good enough for an example, and any seed will do.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from zero to below `limit`. The remainder's bias is far below what anyone could see here.
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// A span from zero to below `limit`.
    fn span_below(&mut self, limit: Span) -> Span {
        Span::from_nanos(i64::try_from(self.below(limit.as_nanos().unsigned_abs())).unwrap_or(0))
    }
}

/// From the clock furthest behind to the one furthest ahead.
fn spread(times: &[Time]) -> Span {
    match (times.iter().max(), times.iter().min()) {
        (Some(latest), Some(earliest)) => *latest - *earliest,
        _ => Span::ZERO,
    }
}

/// As on a clock with twenty-four hours, to the millisecond: `03:00:07.250`.
fn time_of_day(time: Time) -> String {
    let millis = time.as_nanos().div_euclid(1_000_000);
    let (hours, minutes) = (millis / 3_600_000 % 24, millis / 60_000 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:03}", millis / 1_000 % 60, millis % 1_000)
}

/// In seconds, always with its sign, so that a column can be compared at a glance: `-4.916 s`.
fn signed(span: Span) -> String {
    format!("{:+.3} s", span.as_secs_f64())
}
