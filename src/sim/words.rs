//! Spans and counts for people: short, and with their unit.

use crate::time::Span;

/// Three digits and a unit: `1.23 ms`, `45.6 µs`, `2 min`, `1.5 h`.
pub(crate) fn brief(span: Span) -> String {
    const UNITS: [(f64, &str); 7] =
        [(1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3_600.0, "h"), (86_400.0, "d")];
    let seconds = span.as_secs_f64();
    // 181 s and 90 min read better than 3.02 min and 1.5 h: beyond a second a unit wants a whole number, or ten.
    let suits = |unit: f64| match seconds.abs() / unit {
        // What would be rounded up to the next unit (999.7 ns) is shown in that.
        share if unit <= 1.0 => share >= 0.9995,
        share => share >= 10.0 || (share >= 1.0 && share.fract() < 1e-9),
    };
    let (unit, name) = UNITS.into_iter().rfind(|(unit, _)| suits(*unit)).unwrap_or((1e-9, "ns"));
    let value = seconds / unit;
    let decimals = if value.abs() >= 99.95 {
        0
    } else if value.abs() >= 9.995 {
        1
    } else {
        2
    };
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {name}")
}

/// The same, or a dash.
pub(crate) fn maybe(span: Option<Span>) -> String {
    span.map_or_else(|| "\u{2013}".to_owned(), brief)
}

/// `12.3 kB`.
pub(crate) fn bytes(count: f64) -> String {
    match count {
        ..1e3 => format!("{count:.0} B"),
        ..1e6 => format!("{:.1} kB", count / 1e3),
        ..1e9 => format!("{:.1} MB", count / 1e6),
        _ => format!("{:.1} GB", count / 1e9),
    }
}

/// `12,345`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_shown_with_three_digits() {
        for (nanos, text) in [
            (0, "0 ns"),
            (-7, "-7 ns"),
            (999, "999 ns"),
            (1_234, "1.23 µs"),
            (45_678, "45.7 µs"),
            (999_990, "1 ms"),
            (123_456_789, "123 ms"),
            (90_000_000_000, "90 s"),
            (120_000_000_000, "2 min"),
            (181_000_000_000, "181 s"),
            (3_600_000_000_000, "1 h"),
            (5_400_000_000_000, "90 min"),
            (i64::MAX, "106752 d"),
        ] {
            assert_eq!(brief(Span::from_nanos(nanos)), text);
        }
        assert_eq!([bytes(17.4), bytes(1.5e3), bytes(2.5e6), bytes(1e9)], ["17 B", "1.5 kB", "2.5 MB", "1.0 GB"]);
        assert_eq!([grouped(7), grouped(123), grouped(1_234), grouped(1_234_567)], ["7", "123", "1,234", "1,234,567"]);
    }
}
