//! A picture of a run: how far every clock is from the ensemble, over true time.
//!
//! At the start clocks are seconds apart and later microseconds, and both are worth seeing. So the vertical axis is even
//! around zero, up to about what the settled ensemble needs, and logarithmic beyond.
//!
//! One drawing for both formats: SVG as it is, PNG from twice as many dots in each direction as it has, so that edges
//! are smooth. The letters of a PNG come from a font in the program: no machine needs to have one installed.
//!
//! Logarithms and powers are those of the `libm` crate: with the standard library's every node would keep the system's
//! libm.so in memory, 0.3 MiB, for pictures that it never draws.

use std::fmt::Display;
use std::sync::OnceLock;

use plotters::backend::BitMapBackend;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::{
    Cartesian2d, Color, DrawingArea, DrawingBackend, IntoDrawingArea, PathElement, Polygon, RGBAColor, RGBColor,
    Rectangle, SVGBackend, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontDesc, FontFamily, FontStyle, FontTransform, ShapeStyle, TextStyle, register_font};

use super::outcome::Outcome;
use super::report::NodeStanding;
use super::trace::{Trace, distinct};
use super::words::brief;
use crate::time::Span;

/// In points; drawn in dots, see [`DOTS`].
const WIDTH: f64 = 1_200.0;
const HEIGHT: f64 = 675.0;
/// Dots to a point in which is drawn, since plotters knows whole dots only.
const DOTS: u32 = 4;
/// Dots in each direction that become one of a PNG, which so has two to a point, as good screens do.
const SHRINK: usize = 2;
const SIZE: (u32, u32) = (1_200 * DOTS, 675 * DOTS);

/// Where the diagram is.
const LEFT: f64 = 92.0;
const RIGHT: f64 = WIDTH - 28.0;
const BOTTOM: f64 = HEIGHT - 84.0;
const TITLE: f64 = 30.0;
const SUBTITLE: f64 = 54.0;
/// Height of a row of labels above the diagram, and how many there are at most.
const LABEL_ROW: f64 = 15.0;
const LABEL_ROWS: usize = 4;

/// How many decades of the logarithmic part are as high as the even part on one side of zero.
const EVEN_DECADES: f64 = 2.2;
/// No more lines than could be told apart.
const MAX_LINES: usize = 24;

const INK: RGBColor = RGBColor(31, 41, 55);
const FAINT: RGBColor = RGBColor(107, 114, 128);
const GRID: RGBColor = RGBColor(229, 231, 235);
const PAPER: RGBColor = RGBColor(255, 255, 255);
const ENVELOPE: RGBColor = RGBColor(59, 130, 246);
const BOUND: RGBColor = RGBColor(16, 185, 129);
const LIAR: RGBColor = RGBColor(220, 38, 38);
const FAULT: RGBColor = RGBColor(217, 119, 6);
/// For honest nodes in turn; without reds, which liars have. After Tol's and Okabe and Ito's palettes for all eyes.
const NODES: [RGBColor; 8] = [
    RGBColor(30, 64, 175),
    RGBColor(0, 158, 115),
    RGBColor(124, 58, 237),
    RGBColor(14, 165, 233),
    RGBColor(180, 130, 0),
    RGBColor(71, 85, 105),
    RGBColor(190, 60, 160),
    RGBColor(77, 124, 15),
];

/// DejaVu Sans, reduced; see `assets/DejaVuSans-LICENSE.txt`.
static FONT: &[u8] = include_bytes!("../../assets/DejaVuSans-subset.ttf");
const FAMILY: FontFamily<'static> = FontFamily::SansSerif;

/// The two kinds of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lines and letters as such.
    Svg,
    /// Dots.
    Png,
}

/// The picture's bytes. `subtitle`: what was simulated, in one line.
///
/// # Errors
/// Why it cannot be drawn; no scenario is known that leads there.
pub fn picture(outcome: &Outcome, trace: &Trace, format: Format) -> Result<Vec<u8>, String> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    if !REGISTERED.get_or_init(|| register_font(FAMILY.as_str(), FontStyle::Normal, FONT).is_ok()) {
        return Err("the font in the program cannot be read".to_owned());
    }
    match format {
        Format::Svg => {
            let mut text = String::new();
            draw(SVGBackend::with_string(&mut text, SIZE), format, outcome, trace)?;
            // Shown in points however many dots it was drawn in, and without the spikes of mitred corners.
            let (width, height) = SIZE;
            let size = format!("width=\"{width}\" height=\"{height}\"");
            let shown = format!("width=\"{WIDTH}\" height=\"{HEIGHT}\" stroke-linejoin=\"round\"");
            Ok(text.replacen(&size, &shown, 1).into_bytes())
        }
        Format::Png => {
            let (width, height) = (usize::try_from(SIZE.0).unwrap_or(0), usize::try_from(SIZE.1).unwrap_or(0));
            let mut dots = vec![0; width * height * 3];
            draw(BitMapBackend::with_buffer(&mut dots, SIZE), format, outcome, trace)?;
            png(&shrunk(&dots, width), width / SHRINK, height / SHRINK).map_err(|error| error.to_string())
        }
    }
}

/// The mean of each square of [`SHRINK`] dots, in rows of `width` dots of three bytes.
fn shrunk(dots: &[u8], width: usize) -> Vec<u8> {
    let rows: Vec<&[u8]> = dots.chunks_exact(width * 3).collect();
    let mut small = Vec::with_capacity(dots.len() / SHRINK / SHRINK);
    let count = u32::try_from(SHRINK * SHRINK).unwrap_or(1);
    for rows in rows.chunks_exact(SHRINK) {
        for column in 0..width / SHRINK {
            for colour in 0..3 {
                let places = (0..SHRINK).map(|dot| (column * SHRINK + dot) * 3 + colour);
                let sum: u32 = places
                    .flat_map(|place| rows.iter().filter_map(move |row| row.get(place)))
                    .map(|byte| u32::from(*byte))
                    .sum();
                small.push(u8::try_from((sum + count / 2) / count).unwrap_or(u8::MAX));
            }
        }
    }
    small
}

fn png(dots: &[u8], width: usize, height: usize) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let side = |length| u32::try_from(length).unwrap_or(u32::MAX);
    let mut encoder = png::Encoder::new(&mut bytes, side(width), side(height));
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(dots)?;
    writer.finish()?;
    Ok(bytes)
}

/// A place in points, down from the upper left corner.
type Place = (f64, f64);

/// The paper, measured in points.
type Paper<DB> = DrawingArea<DB, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// True time and offset to a place.
struct Axes {
    top: f64,
    duration: f64,
    /// Up to this offset, in seconds, the axis is even.
    even: f64,
    /// The largest offset, in seconds.
    largest: f64,
}

impl Axes {
    fn x(&self, at: Span) -> f64 {
        LEFT + (RIGHT - LEFT) * (at.as_secs_f64() / self.duration).clamp(0.0, 1.0)
    }

    fn y(&self, offset: Span) -> f64 {
        let middle = (self.top + BOTTOM) / 2.0;
        let part = self.height(offset.as_secs_f64()) / self.height(self.largest);
        middle - part.clamp(-1.0, 1.0) * (BOTTOM - self.top) / 2.0
    }

    fn place(&self, at: Span, offset: Span) -> Place {
        (self.x(at), self.y(offset))
    }

    /// In decades.
    fn height(&self, seconds: f64) -> f64 {
        let share = seconds.abs() / self.even;
        let size = if share <= 1.0 { share * EVEN_DECADES } else { EVEN_DECADES + libm::log10(share) };
        size.copysign(seconds)
    }

    /// Offsets that have a line and a label, in seconds, without zero and the negative ones.
    fn ticks(&self) -> Vec<f64> {
        let mut ticks = vec![self.even / 2.0, self.even];
        let mut power = libm::pow(10.0, libm::log10(self.even).floor());
        while power <= self.largest * 1.000_001 {
            if power > self.even * 2.1 {
                ticks.push(power);
            }
            power *= 10.0;
        }
        ticks
    }
}

/// The next of 1, 2, 5, 10, 20, ... in seconds, that is not smaller.
fn round_up(seconds: f64) -> f64 {
    let power = libm::pow(10.0, libm::log10(seconds).floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|step| *step >= seconds * 0.999_999)
        .unwrap_or(power)
}

fn draw<DB: DrawingBackend>(backend: DB, format: Format, outcome: &Outcome, trace: &Trace) -> Result<(), String> {
    let root: DrawingArea<DB, Shift> = backend.into_drawing_area();
    let (width, height) = root.dim_in_pixel();
    let dots = |length: u32| 0..i32::try_from(length).unwrap_or(i32::MAX);
    let points =
        Cartesian2d::<RangedCoordf64, RangedCoordf64>::new(0.0..WIDTH, 0.0..HEIGHT, (dots(width), dots(height)));
    let sheet = Sheet { paper: root.apply_coord_spec(points), format };
    sheet.picture(outcome, trace)?;
    root.present().map_err(text)
}

fn text(error: impl Display) -> String {
    error.to_string()
}

/// A line's colour, width in points, and whether it is dashed.
#[derive(Clone, Copy)]
struct Pen {
    colour: RGBAColor,
    width: f64,
    is_dashed: bool,
}

fn pen(colour: RGBColor, alpha: f64, width: f64) -> Pen {
    Pen { colour: colour.mix(alpha), width, is_dashed: false }
}

fn dashed(colour: RGBColor, alpha: f64, width: f64) -> Pen {
    Pen { is_dashed: true, ..pen(colour, alpha, width) }
}

struct Sheet<DB: DrawingBackend> {
    paper: Paper<DB>,
    format: Format,
}

impl<DB: DrawingBackend> Sheet<DB> {
    fn picture(&self, outcome: &Outcome, trace: &Trace) -> Result<(), String> {
        self.paper.fill(&PAPER).map_err(text)?;
        let (labels, rows) = labels(outcome, trace);
        let axes = axes(outcome, trace, SUBTITLE + 22.0 + LABEL_ROW * f64::from(rows));
        self.titles(outcome)?;
        self.grid(&axes)?;
        self.faults(&axes, trace, &labels)?;
        self.bands(&axes, trace)?;
        let drawn = self.clocks(&axes, trace)?;
        self.settled(&axes, outcome)?;
        self.frame(&axes)?;
        self.legend(outcome, trace, drawn)
    }

    fn titles(&self, outcome: &Outcome) -> Result<(), String> {
        let Outcome { about, nodes, liars, seed, .. } = outcome;
        let title = if about.is_empty() { "A simulated ensemble".to_owned() } else { about.clone() };
        // What is too long for one line is made smaller, to a point.
        let size = (19.0 * (RIGHT - LEFT) / text_width(&title, 19.0).max(1.0)).clamp(11.0, 19.0);
        self.text(&title, (LEFT, TITLE), size, INK, HPos::Left)?;
        let liars = match liars {
            0 => String::new(),
            count => format!(", {count} lying"),
        };
        let subtitle = format!("{nodes} nodes{liars} \u{b7} seed {seed} \u{b7} {}", outcome.headline());
        self.text(&subtitle, (LEFT, SUBTITLE), 13.0, FAINT, HPos::Left)
    }

    fn grid(&self, axes: &Axes) -> Result<(), String> {
        let even = Span::from_secs_f64(axes.even);
        // Where the axis is even, the paper is a little brighter than elsewhere.
        let beyond = [(axes.top, axes.y(even)), (axes.y(-even), BOTTOM)];
        for (top, bottom) in beyond {
            self.rectangle((LEFT, top), (RIGHT, bottom), RGBColor(148, 163, 184).mix(0.07))?;
        }
        for (at, label) in time_ticks(axes.duration) {
            let x = axes.x(Span::from_secs_f64(at));
            self.line(&[(x, axes.top), (x, BOTTOM)], pen(GRID, 1.0, 1.0))?;
            self.text(&label, (x, BOTTOM + 15.0), 12.0, FAINT, HPos::Center)?;
        }
        self.text("true time", (f64::midpoint(LEFT, RIGHT), BOTTOM + 35.0), 12.0, FAINT, HPos::Center)?;
        let mut ticks = vec![Span::ZERO];
        ticks.extend(axes.ticks().into_iter().map(Span::from_secs_f64).flat_map(|tick| [tick, -tick]));
        for tick in ticks {
            let y = axes.y(tick);
            let line = if tick == Span::ZERO { pen(FAINT, 0.7, 1.0) } else { pen(GRID, 1.0, 1.0) };
            self.line(&[(LEFT, y), (RIGHT, y)], line)?;
            let sign = match tick {
                Span::ZERO => "",
                tick if tick.is_forward() => "+",
                _ => "\u{2212}",
            };
            let label = if tick == Span::ZERO { "0".to_owned() } else { format!("{sign}{}", brief(tick.abs())) };
            self.text(&label, (LEFT - 8.0, y), 12.0, FAINT, HPos::Right)?;
        }
        let style = style(12.0, FAINT, HPos::Center).transform(FontTransform::Rotate270);
        self.paper
            .draw(&Text::new("offset from the ensemble", (18.0, f64::midpoint(axes.top, BOTTOM)), style))
            .map_err(text)
    }

    fn faults(&self, axes: &Axes, trace: &Trace, labels: &[Label]) -> Result<(), String> {
        for (from, to) in trace.faults() {
            let (left, right) = (axes.x(*from), axes.x(*to));
            self.rectangle((left, axes.top), (right.max(left + 1.0), BOTTOM), FAULT.mix(0.07))?;
        }
        let y = |row: u8| axes.top - 10.0 - LABEL_ROW * f64::from(row);
        for label in labels {
            let x = axes.x(label.at);
            let top = label.row.map_or(axes.top, |row| y(row) - 5.0);
            self.line(&[(x, top), (x, BOTTOM)], dashed(FAULT, 0.8, 1.0))?;
        }
        // Over the lines of all others, some of which would cross them out.
        for label in labels {
            let Some(y) = label.row.map(y) else { continue };
            let (x, width) = (axes.x(label.at), text_width(&label.text, 11.0));
            let left = if label.is_left { x - 4.0 - width } else { x + 4.0 };
            self.rectangle((left - 1.0, y - 7.0), (left + width + 1.0, y + 7.0), PAPER.mix(1.0))?;
            self.text(&label.text, (left, y), 11.0, FAULT, HPos::Left)?;
        }
        Ok(())
    }

    fn bands(&self, axes: &Axes, trace: &Trace) -> Result<(), String> {
        self.band(axes, &trace.bounds(), BOUND, 0.10, 0.45)?;
        self.band(axes, &trace.envelope(), ENVELOPE, 0.16, 0.35)
    }

    fn band(
        &self,
        axes: &Axes,
        band: &[(Span, Span, Span)],
        colour: RGBColor,
        fill: f64,
        edge: f64,
    ) -> Result<(), String> {
        let low: Vec<Place> = band.iter().map(|(at, low, _)| axes.place(*at, *low)).collect();
        let high: Vec<Place> = band.iter().map(|(at, _, high)| axes.place(*at, *high)).collect();
        let (low, high) = (simplified(&low), simplified(&high));
        let outline: Vec<Place> = low.iter().copied().chain(high.iter().rev().copied()).collect();
        if outline.len() > 2 {
            self.paper.draw(&Polygon::new(outline, ShapeStyle::from(colour.mix(fill)).filled())).map_err(text)?;
        }
        self.line(&low, pen(colour, edge, 0.8))?;
        self.line(&high, pen(colour, edge, 0.8))
    }

    /// All clocks, or as many as can be told apart, evenly chosen; returns how many were drawn.
    fn clocks(&self, axes: &Axes, trace: &Trace) -> Result<usize, String> {
        let step = trace.nodes().div_ceil(MAX_LINES).max(1);
        let mut drawn = 0;
        for (order, node) in (0..trace.nodes()).step_by(step).enumerate() {
            drawn += 1;
            let colour = NODES.get(order % NODES.len()).copied().unwrap_or(INK);
            for run in trace.runs(node) {
                let is_liar = run.iter().any(|point| point.standing == NodeStanding::Liar);
                let places: Vec<Place> = run.iter().map(|point| axes.place(point.at, point.offset)).collect();
                let line = if is_liar { dashed(LIAR, 0.9, 1.3) } else { pen(colour, 0.85, 1.1) };
                self.line(&simplified(&places), line)?;
            }
        }
        Ok(drawn)
    }

    fn settled(&self, axes: &Axes, outcome: &Outcome) -> Result<(), String> {
        let Some(settle) = outcome.settle else { return Ok(()) };
        let x = axes.x(settle);
        self.line(&[(x, BOTTOM), (x, BOTTOM - 14.0)], pen(INK, 1.0, 1.6))?;
        let words = format!("settled after {}", brief(settle));
        let width = text_width(&words, 11.0);
        let left = if x + width + 10.0 > RIGHT { x - width - 6.0 } else { x + 6.0 };
        self.rectangle((left - 3.0, BOTTOM - 18.0), (left + width + 3.0, BOTTOM - 3.0), PAPER.mix(0.85))?;
        self.text(&words, (left, BOTTOM - 10.0), 11.0, INK, HPos::Left)
    }

    fn frame(&self, axes: &Axes) -> Result<(), String> {
        let corners = [(LEFT, axes.top), (RIGHT, axes.top), (RIGHT, BOTTOM), (LEFT, BOTTOM), (LEFT, axes.top)];
        self.line(&corners, pen(FAINT, 0.5, 1.0))
    }

    fn legend(&self, outcome: &Outcome, trace: &Trace, drawn: usize) -> Result<(), String> {
        let y = HEIGHT - 22.0;
        let mut x = LEFT;
        let clocks = match trace.nodes() {
            all if all == drawn => "clocks".to_owned(),
            all => format!("{drawn} of {all} clocks"),
        };
        let mut entries =
            vec![(clocks, Swatch::Lines), ("envelope of the honest clocks".to_owned(), Swatch::Area(ENVELOPE))];
        if !trace.bounds().is_empty() {
            entries.push(("published error bounds, the widest".to_owned(), Swatch::Area(BOUND)));
        }
        if outcome.liars > 0 {
            entries.push(("liars".to_owned(), Swatch::Line(LIAR)));
        }
        if !outcome.marks.is_empty() || !trace.faults().is_empty() {
            entries.push(("faults and changes of role".to_owned(), Swatch::Line(FAULT)));
        }
        for (label, swatch) in entries {
            match swatch {
                Swatch::Lines => {
                    for (row, colour) in (-1_i8..).zip(NODES.iter().take(3)) {
                        let y = y + 4.0 * f64::from(row);
                        self.line(&[(x, y), (x + 24.0, y)], pen(*colour, 0.9, 1.4))?;
                    }
                }
                Swatch::Area(colour) => {
                    self.rectangle((x, y - 6.0), (x + 24.0, y + 6.0), colour.mix(0.18))?;
                    for y in [y - 6.0, y + 6.0] {
                        self.line(&[(x, y), (x + 24.0, y)], pen(colour, 0.5, 0.9))?;
                    }
                }
                Swatch::Line(colour) => self.line(&[(x, y), (x + 24.0, y)], dashed(colour, 0.9, 1.3))?,
            }
            self.text(&label, (x + 31.0, y), 12.0, INK, HPos::Left)?;
            x += 31.0 + text_width(&label, 12.0) + 26.0;
        }
        Ok(())
    }

    fn line(&self, places: &[Place], pen: Pen) -> Result<(), String> {
        let dots = (pen.width * f64::from(DOTS)).round();
        let width = (1..=DOTS * 4).find(|width| f64::from(*width) >= dots).unwrap_or(DOTS);
        let style = ShapeStyle { color: pen.colour, filled: false, stroke_width: width };
        let path = |places: &[Place]| self.paper.draw(&PathElement::new(places.to_vec(), style)).map_err(text);
        let draw = |places: &[Place]| match self.format {
            Format::Svg => path(places),
            // The corners that plotters makes of dots are mitred without a limit: they look like peaks that never were.
            Format::Png => places.windows(2).try_for_each(path),
        };
        match (places.len() < 2, pen.is_dashed) {
            (true, _) => Ok(()),
            (false, false) => draw(places),
            (false, true) => dashes(places, 5.0, 3.5).iter().try_for_each(|dash| draw(dash)),
        }
    }

    fn rectangle(&self, from: Place, to: Place, colour: RGBAColor) -> Result<(), String> {
        self.paper.draw(&Rectangle::new([from, to], ShapeStyle::from(colour).filled())).map_err(text)
    }

    fn text(&self, words: &str, at: Place, size: f64, colour: RGBColor, anchor: HPos) -> Result<(), String> {
        // Letters made of dots stand a little too high in plotters.
        let below = if self.format == Format::Png { size * 0.18 } else { 0.0 };
        let at = (at.0, at.1 + below);
        self.paper.draw(&Text::new(words.to_owned(), at, style(size, colour, anchor))).map_err(text)
    }
}

enum Swatch {
    Lines,
    Area(RGBColor),
    Line(RGBColor),
}

/// plotters takes the height of a line of text for the size of its letters.
fn font(size: f64) -> FontDesc<'static> {
    FontDesc::new(FAMILY, size * 1.24 * f64::from(DOTS), FontStyle::Normal)
}

fn style(size: f64, colour: RGBColor, anchor: HPos) -> TextStyle<'static> {
    let pos = Pos::new(anchor, VPos::Center);
    TextStyle { font: font(size), color: colour.to_backend_color(), pos }
}

/// In points.
fn text_width(words: &str, size: f64) -> f64 {
    font(size).box_size(words).map_or(0.0, |(width, _)| f64::from(width) / f64::from(DOTS))
}

/// A mark, and the row of labels above the diagram in which its text has room.
struct Label {
    at: Span,
    text: String,
    row: Option<u8>,
    /// It stands to the left of its line, near the right edge.
    is_left: bool,
}

/// The marks as labels, and how many rows they need. A mark without room is a line without text.
fn labels(outcome: &Outcome, trace: &Trace) -> (Vec<Label>, u8) {
    let mut taken: [Vec<(f64, f64)>; LABEL_ROWS] = Default::default();
    let mut labels = Vec::new();
    let mut rows = 0;
    for mark in distinct(&outcome.marks) {
        let x = LEFT + (RIGHT - LEFT) * (mark.at.as_secs_f64() / trace.duration().as_secs_f64()).clamp(0.0, 1.0);
        let width = text_width(&mark.text, 11.0) + 10.0;
        let is_left = x + width > RIGHT;
        let (from, to) = if is_left { (x - width, x) } else { (x, x + width) };
        let is_free = |row: &Vec<(f64, f64)>| row.iter().all(|(left, right)| to < *left || *right < from);
        let row = taken.iter_mut().position(|row| is_free(row));
        if let Some(row) = row.and_then(|row| taken.get_mut(row)) {
            row.push((from, to));
        }
        let row = row.and_then(|row| u8::try_from(row).ok());
        rows = rows.max(row.map_or(0, |row| row + 1));
        labels.push(Label { at: mark.at, text: mark.text.clone(), row, is_left });
    }
    (labels, rows)
}

/// Axes on which everything has room, and the settled ensemble much of it.
fn axes(outcome: &Outcome, trace: &Trace, top: f64) -> Axes {
    // Half the spread is what the outermost clocks are usually away from the mean: they fill half of the even part. What a
    // fault does for a moment may be beyond it.
    let settled = match (outcome.settle, outcome.spread.median) {
        (Some(_), Some(spread)) => spread.as_secs_f64(),
        (Some(_), None) | (None, _) => 1e-5,
    };
    let even = round_up(settled.clamp(1e-7, 1e3));
    let lines = (0..trace.nodes()).flat_map(|node| trace.runs(node)).flatten().map(|point| point.offset.abs());
    let bounds = trace.bounds().into_iter().map(|(_, _, bound)| bound);
    // A bound that is absurd at first must not press the rest together.
    let farthest = lines.max().unwrap_or(Span::ZERO);
    let widest = bounds.max().unwrap_or(Span::ZERO).min(farthest.times(3));
    let largest = round_up(farthest.max(widest).as_secs_f64().max(even * 2.0) * 1.05);
    Axes { top, duration: trace.duration().as_secs_f64().max(1e-9), even, largest }
}

/// Some ten round times with their labels.
fn time_ticks(duration: f64) -> Vec<(f64, String)> {
    const STEPS: [f64; 17] = [
        1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0, 3_600.0, 7_200.0, 21_600.0,
        43_200.0, 86_400.0,
    ];
    let step = STEPS.into_iter().find(|step| duration / step <= 13.0).filter(|_| duration >= 4.0);
    let step = step.unwrap_or_else(|| round_up(duration / 10.0));
    let (unit, name) = match step {
        60.0..3_600.0 => (60.0, "min"),
        3_600.0..86_400.0 => (3_600.0, "h"),
        86_400.0.. => (86_400.0, "d"),
        _ => (1.0, "s"),
    };
    let ticks = (0_u32..20).map(|tick| f64::from(tick) * step).take_while(|at| *at <= duration * 1.000_001);
    let label = |at: f64| match at {
        0.0 => "0".to_owned(),
        at if unit > 1.0 => format!("{} {name}", (at / unit * 100.0).round() / 100.0),
        at => brief(Span::from_secs_f64(at)).replace(" min", "\u{a0}min"),
    };
    // Below a minute's step all labels are in seconds, beyond two minutes as well.
    let in_seconds = |at: f64| if (1.0..60.0).contains(&step) && at > 0.0 { format!("{at} s") } else { label(at) };
    ticks.map(|at| (at, in_seconds(at))).collect()
}

/// The same line without places that would not be seen.
fn simplified(places: &[Place]) -> Vec<Place> {
    let near = |one: f64, other: f64| (one - other).abs() < 0.2;
    let mut kept: Vec<Place> = Vec::with_capacity(places.len());
    for place in places {
        match kept.as_slice() {
            // Level before and after: the middle one is on the way.
            [.., (_, before), (_, last)] if near(*before, *last) && near(*last, place.1) => {
                kept.pop();
            }
            [.., last] if near(last.0, place.0) && near(last.1, place.1) => continue,
            _ => (),
        }
        kept.push(*place);
    }
    kept
}

/// A line cut into pieces of a length, with gaps between them.
fn dashes(places: &[Place], length: f64, gap: f64) -> Vec<Vec<Place>> {
    let mut dashes = Vec::new();
    let mut dash: Vec<Place> = Vec::new();
    // What is left of the present dash or gap.
    let (mut is_dash, mut left) = (true, length);
    for (from, to) in places.iter().zip(places.iter().skip(1)) {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let whole = libm::hypot(dx, dy);
        let on = |done: f64| (from.0 + dx * done / whole, from.1 + dy * done / whole);
        let mut done = 0.0;
        if dash.is_empty() && is_dash {
            dash.push(*from);
        }
        while whole - done >= left {
            done += left;
            if is_dash {
                dash.push(on(done));
                dashes.push(std::mem::take(&mut dash));
            } else {
                dash.push(on(done));
            }
            is_dash = !is_dash;
            left = if is_dash { length } else { gap };
        }
        left -= whole - done;
        if is_dash && whole > done {
            dash.push(*to);
        }
    }
    dashes.push(dash);
    dashes.retain(|dash| dash.len() > 1);
    dashes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::recorder::Recorder;
    use crate::sim::report::NodeSample;
    use crate::sim::scenario::Scenario;

    fn outcome(duration: Span, samples: i64, error: impl Fn(i64) -> Span) -> Outcome {
        let scenario = Scenario { duration, about: "<clocks> & \"pictures\"".to_owned(), ..Scenario::default() };
        let mut recorder = Recorder::new(&scenario, true);
        for index in 0..samples {
            let sample = |error| NodeSample {
                error,
                alone: Span::ZERO,
                bound: Span::MAX,
                standing: NodeStanding::Honest,
                tier: 0,
            };
            recorder.record(duration.part(samples).times(index), &[sample(error(index)), sample(Span::ZERO)]);
            recorder.mark(duration.part(samples).times(index), format!("mark {index} with a long text"));
        }
        recorder.finish(1)
    }

    fn svg(outcome: &Outcome) -> String {
        String::from_utf8(picture(outcome, outcome.trace.as_ref().unwrap(), Format::Svg).unwrap()).unwrap()
    }

    #[test]
    fn the_strangest_runs_can_be_drawn() {
        let hour = Span::from_secs(3_600);
        for outcome in [
            outcome(hour, 0, |_| Span::ZERO),
            outcome(hour, 1, |_| Span::ZERO),
            outcome(Span::from_nanos(1), 3, |_| Span::MAX),
            outcome(Span::MAX, 5, |index| Span::from_nanos(if index % 2 == 0 { i64::MIN } else { i64::MAX })),
            outcome(hour, 500, |index| Span::from_nanos(index * index * index * 1_000)),
        ] {
            let text = svg(&outcome);
            assert!(
                text.starts_with(
                    "<svg width=\"1200\" height=\"675\" stroke-linejoin=\"round\" viewBox=\"0 0 4800 2700\""
                )
            );
            assert!(text.ends_with("</svg>\n") && !text.contains("NaN"), "{text}");
            assert!(
                text.contains("&lt;clocks&gt; &amp;"),
                "what stands in a scenario is text and not a part of the picture"
            );
        }
    }

    #[test]
    fn a_png_has_two_dots_to_a_point() {
        let outcome = outcome(Span::from_secs(60), 100, Span::from_millis);
        let bytes = picture(&outcome, outcome.trace.as_ref().unwrap(), Format::Png).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut dots = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut dots).unwrap();
        assert_eq!((info.width, info.height), (2_400, 1_350));
        assert_eq!(dots.first_chunk::<3>(), Some(&[255; 3]), "the corner is paper");
        let colours: std::collections::BTreeSet<&[u8]> = dots.chunks_exact(3).collect();
        assert!(colours.len() > 50, "edges are smooth: {}", colours.len());
    }

    #[test]
    fn the_axis_is_even_around_zero_and_logarithmic_beyond() {
        let axes = Axes { top: 100.0, duration: 60.0, even: 1e-5, largest: 1.0 };
        let y = |micros: i64| axes.y(Span::from_micros(micros));
        let near = |one: f64, other: f64| (one - other).abs() < 1e-6;
        assert!(near(y(0), f64::midpoint(100.0, BOTTOM)) && near(y(1_000_000), 100.0) && near(y(-1_000_000), BOTTOM));
        assert!(near(y(2) - y(1), y(10) - y(9)), "even");
        assert!(near(y(1_000) - y(100), y(10_000) - y(1_000)), "a decade is as high as another");
        assert!(near(y(0) - y(-50), y(50) - y(0)), "both sides alike");
        assert_eq!(axes.ticks().len(), 7, "{:?}", axes.ticks());
        assert!(near(axes.x(Span::from_secs(30)), f64::midpoint(LEFT, RIGHT)));
    }

    #[test]
    fn times_are_round() {
        let labels = |duration| time_ticks(duration).into_iter().map(|(_, label)| label).collect::<Vec<_>>();
        assert_eq!(labels(60.0).last().unwrap(), "60 s");
        assert_eq!(labels(600.0)[1], "1 min");
        assert_eq!(labels(3_600.0).last().unwrap(), "60 min");
        assert_eq!(labels(86_400.0)[1], "2 h");
        assert_eq!(labels(1.0)[1], "100 ms");
        for duration in [1e-9, 0.3, 3.9, 4.0, 59.0, 1e3, 1e5, 1e7, 9e9] {
            assert!((2..=14).contains(&labels(duration).len()), "{duration}: {:?}", labels(duration));
        }
    }

    #[test]
    fn dashes_and_shorter_lines_keep_to_the_way() {
        let dashes = dashes(&[(0.0, 0.0), (10.0, 0.0), (10.0, 10.0)], 4.0, 2.0);
        let expected: [&[Place]; 4] = [
            &[(0.0, 0.0), (4.0, 0.0)],
            &[(6.0, 0.0), (10.0, 0.0)],
            &[(10.0, 2.0), (10.0, 6.0)],
            &[(10.0, 8.0), (10.0, 10.0)],
        ];
        assert_eq!(dashes, expected);
        let level = [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (3.0, 5.0), (3.01, 5.01), (4.0, 1.0)];
        assert_eq!(simplified(&level), [(0.0, 1.0), (2.0, 1.0), (3.0, 5.0), (4.0, 1.0)]);
    }
}
