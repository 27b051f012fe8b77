//! Spans of time over time, as braille dots: two in the width of a letter, four in its height.
//!
//! The scale is for what is usual: a single step of seconds must not make a flat line of all the microseconds after it. What lies beyond stands
//! at the edge.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Color;
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::canvas::{self, Canvas, Points};

use crate::commands::words;
use crate::time::{LocalTime, Span};

/// How much time is shown: as little as holds all that is known, and no more than the last.
const WINDOWS: [Span; 3] = [Span::from_secs(60), Span::from_secs(120), Span::from_secs(300)];
/// The smallest scale: what kernels stamp is not sharper.
const LEAST_LIMIT: Span = Span::from_nanos(100);
/// A part in so many of the values may lie beyond the scale.
const STRAYS: usize = 20;
/// Over a gap of more than this no line leads: nobody knows what was there.
const GAP: Span = Span::from_secs(5);
/// The scale of most charts: `-500 µs`. With the same width the charts of a screen begin in the same column.
const LABEL_WIDTH: usize = 7;
/// Of letters: less is no chart.
const LEAST_WIDTH: u16 = 20;
const LEAST_HEIGHT: u16 = 3;

/// What a layer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Dots,
    Line,
}

/// Points of one kind.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) shape: Shape,
    pub(super) colour: Color,
    /// The oldest first.
    pub(super) points: Vec<(LocalTime, Span)>,
}

/// Layers, each of which covers those before it.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub(super) layers: Vec<Layer>,
    /// The right edge.
    pub(super) now: LocalTime,
    /// The upper edge; the lower one is its opposite, or zero.
    pub(super) limit: Span,
    /// Whether there may be anything below zero.
    pub(super) is_signed: bool,
}

/// The round number that most of these values do not exceed.
pub(super) fn limit(values: impl Iterator<Item = Span>) -> Span {
    let mut sizes: Vec<Span> = values.map(Span::abs).collect();
    let usual = sizes.len().saturating_sub(1 + sizes.len() / STRAYS);
    let largest = if sizes.is_empty() { Span::ZERO } else { *sizes.select_nth_unstable(usual).1 };
    round_up(largest.max(LEAST_LIMIT))
}

/// The next of 1, 2, 5, 10, 20, 50 ... ns.
fn round_up(span: Span) -> Span {
    let powers = std::iter::successors(Some(1i64), |power| power.checked_mul(10));
    let steps = powers.flat_map(|power| [1, 2, 5].map(|step| Span::from_nanos(power.saturating_mul(step))));
    steps.into_iter().find(|step| *step >= span).unwrap_or(Span::MAX)
}

impl Chart {
    /// Draws it with its scale. Draws nothing where there is no room.
    pub(super) fn draw(&self, frame: &mut Frame<'_>, area: Rect) {
        if area.width < LEAST_WIDTH || area.height < LEAST_HEIGHT {
            return;
        }
        let lower = if self.is_signed { Span::ZERO - self.limit } else { Span::ZERO };
        let labels = [self.limit, if self.is_signed { Span::ZERO } else { self.limit.half() }, lower].map(label);
        let width = words::width(labels.iter().map(String::as_str)).max(LABEL_WIDTH);
        let [left, plot] =
            Layout::horizontal([Constraint::Length(u16::try_from(width + 1).unwrap_or(0)), Constraint::Min(0)])
                .areas(area);
        let [plot, below] = Layout::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(plot);
        let rows = [0, (plot.height - 1) / 2, plot.height - 1];
        for (label, row) in labels.iter().zip(rows) {
            let place = Rect { y: left.y + row, height: 1, width: left.width - 1, ..left };
            frame.render_widget(Line::from(label.as_str()).right_aligned(), place);
        }
        let window = self.window();
        frame.render_widget(format!("{} ago", lasting(window)), below);
        frame.render_widget(Line::from("now").right_aligned(), below);
        let canvas = Canvas::default()
            .marker(Marker::Braille)
            .x_bounds([-window.as_secs_f64(), 0.0])
            .y_bounds([lower.as_secs_f64(), self.limit.as_secs_f64()])
            .paint(|context| self.paint(context, window, lower));
        frame.render_widget(canvas, plot);
    }

    fn window(&self) -> Span {
        let oldest = self.layers.iter().filter_map(|layer| layer.points.first()).map(|(at, _)| *at).min();
        let age = self.now - oldest.unwrap_or(self.now);
        let [.., longest] = WINDOWS;
        WINDOWS.into_iter().find(|window| age <= *window).unwrap_or(longest)
    }

    fn paint(&self, context: &mut canvas::Context<'_>, window: Span, lower: Span) {
        for Layer { shape, colour, points } in &self.layers {
            let place = |(at, value): &(LocalTime, Span)| {
                (-(self.now - *at).as_secs_f64(), (*value).clamp(lower, self.limit).as_secs_f64())
            };
            let seen = || points.iter().filter(|(at, _)| self.now - *at <= window);
            match shape {
                Shape::Dots => context.draw(&Points { coords: &seen().map(place).collect::<Vec<_>>(), color: *colour }),
                Shape::Line => {
                    for (one, next) in seen().zip(seen().skip(1)).filter(|(one, next)| next.0 - one.0 <= GAP) {
                        let ((x1, y1), (x2, y2)) = (place(one), place(next));
                        context.draw(&canvas::Line { x1, y1, x2, y2, color: *colour });
                    }
                }
            }
            context.layer();
        }
    }
}

/// A round number without its zeros behind the point.
fn label(span: Span) -> String {
    span.to_string().replace(".000", "")
}

fn lasting(window: Span) -> String {
    format!("{} min", window.as_nanos() / Span::from_secs(60).as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_round_and_for_what_is_usual() {
        let limit_of = |nanos: &[i64]| limit(nanos.iter().copied().map(Span::from_nanos)).to_string();
        assert_eq!(limit_of(&[]), "100 ns");
        assert_eq!(limit_of(&[-101]), "200 ns");
        assert_eq!(limit_of(&[1_000, -999]), "1.000 µs");
        assert_eq!(limit_of(&[2_000_000_001, 3]), "5.000 s");
        assert_eq!(limit_of(&[i64::MIN, i64::MAX]), limit_of(&[i64::MAX]));
        // One step of two seconds in twenty rounds of a microsecond, but not two of them.
        let mut rounds = [900; 20];
        rounds[3] = -2_000_000_000;
        assert_eq!(limit_of(&rounds), "1.000 µs");
        rounds[4] = 2_000_000_000;
        assert_eq!(limit_of(&rounds), "2.000 s");
    }

    #[test]
    fn labels_are_short() {
        let texts = [0, 500, 20_000, 50_000_000, 1_000_000_000].map(|nanos| label(Span::from_nanos(nanos)));
        assert_eq!(texts, ["0 ns", "500 ns", "20 µs", "50 ms", "1 s"]);
    }
}
