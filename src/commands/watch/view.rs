//! How `watch` shows what it knows, on a screen of any size. What is bad says so in words as well: colours only point at it.
//!
//! From top to bottom: who the node is; how it stands, in the words of `berkeleyd status`; a chart; on a master its slaves, elsewhere
//! a second chart; what happened; the keys. Where there is no room, the charts go first and what happened goes next.

use std::collections::BTreeSet;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Clear, Paragraph, Wrap};

use crate::commands::watch::app::{App, Side};
use crate::commands::watch::chart::{Chart, Layer, Shape, limit};
use crate::commands::words::{self, Column, Mood};
use crate::observation::Sample;
use crate::status::{PeerStatus, RoleName, Status};
use crate::time::{LocalTime, Span, Time};

/// The columns from the most to the least important: as many as there is room for are shown.
const IMPORTANT: [Column; 9] = [
    Column::Slave,
    Column::Offset,
    Column::Bound,
    Column::Counted,
    Column::Delay,
    Column::Skew,
    Column::Heard,
    Column::Address,
    Column::Stamps,
];
/// Between two columns.
const GAP: usize = 2;
/// Numbers change their units all the time; columns as wide as this stay where they are.
const NUMBER_WIDTH: usize = 11;
/// Below this many rows for both there is a table and no chart.
const CHART_AND_TABLE: u16 = 12;
/// Below this many rows nothing is told of what happened.
const ALL_PARTS: u16 = 9;
/// So many lines of what happened are enough for any screen.
const MANY_HAPPENINGS: u16 = 9;

const HELP: &str = "\
q, Ctrl-C   quit
space, p    pause; what happens meanwhile is not lost
up, down    select a slave, with its line in the chart
            (k, j, PgUp, PgDn, Home, End; Esc: none)
s           sort slaves by the next column
r           the other way round
Tab         the other domain of a submaster
?, h        this

Chart: a dot a look and slave, yellow if left out.
The scale is for the usual; strays are at its edge.";

/// Which colours there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Palette {
    /// False: whoever asked for none (`NO_COLOR`) sees bold, reversed and dim letters only.
    pub(super) has_colours: bool,
}

impl Palette {
    fn colour(self, colour: Color) -> Color {
        if self.has_colours { colour } else { Color::Reset }
    }

    fn style(self, mood: Mood) -> Style {
        match mood {
            Mood::Plain => Style::new(),
            Mood::Good => Style::new().fg(self.colour(Color::Green)),
            Mood::Doubtful => Style::new().fg(self.colour(Color::Yellow)),
            Mood::Bad => Style::new().fg(self.colour(Color::Red)).bold(),
        }
    }

    fn line(self, (mood, text): (Mood, String)) -> Line<'static> {
        Line::styled(text, self.style(mood))
    }
}

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, app: &App, palette: Palette) {
    let area = frame.area();
    let facts = app.status().map(|status| facts(app, status, palette)).unwrap_or_default();
    let banner = banner(app, palette);
    let banner_height = banner.as_ref().map_or(0, |banner| height(banner, area.width));
    let [title, alarm, head, body, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(banner_height),
        Constraint::Length(u16::try_from(facts.len()).unwrap_or(0)),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(title_line(app, title.width), title);
    if let Some(banner) = banner {
        frame.render_widget(banner, alarm);
    }
    frame.render_widget(Text::from(facts), head);
    draw_body(frame, app, palette, body);
    frame.render_widget(Line::from(keys_line(app)).dim(), keys);
    if app.silence().is_some() {
        // What was known of it; it may have changed.
        frame.buffer_mut().set_style(head.union(body), Style::new().dim());
    }
    if app.is_helping() {
        draw_help(frame, area);
    }
}

/// Who is shown and when. Reversed, as a bar.
fn title_line(app: &App, width: u16) -> Line<'static> {
    let node = app.own().map_or_else(|| "berkeleyd watch".to_owned(), |status| format!("node {}", words::node(status)));
    let time = app.system_at(app.now()).map(|at| format!("{} UTC", time_of_day(at))).unwrap_or_default();
    let right = if app.is_paused() { format!("PAUSED at {time}") } else { time };
    let width = usize::from(width);
    let room = width.saturating_sub(right.chars().count() + 1);
    let left: String = node.chars().take(room).collect();
    Line::from(format!("{left:<room$} {right}")).reversed()
}

fn time_of_day(at: Time) -> String {
    let seconds = at.as_nanos().div_euclid(1_000_000_000).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// That nobody answers, and why.
fn banner(app: &App, palette: Palette) -> Option<Paragraph<'static>> {
    let (millis, reason) = app.silence()?;
    let text = format!("no answer for {}: {reason}", words::lasting(millis));
    Some(Paragraph::new(text).style(palette.style(Mood::Bad)).wrap(Wrap { trim: true }))
}

/// How many rows a text takes, which is broken between words.
fn height(text: &Paragraph<'_>, width: u16) -> u16 {
    // Drawn into nowhere and counted: the library counts rows in an unstable interface only.
    let mut nowhere = ratatui::buffer::Buffer::empty(Rect::new(0, 0, width, 8));
    ratatui::widgets::Widget::render(text, nowhere.area, &mut nowhere);
    let is_empty =
        |row: u16| (0..width).all(|column| nowhere.cell((column, row)).is_none_or(|cell| cell.symbol() == " "));
    (0..8).find(|row| is_empty(*row)).unwrap_or(8)
}

/// How the node that is shown stands.
fn facts(app: &App, status: &Status, palette: Palette) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let mut fact = |name: &str, (mood, text): (Mood, String)| {
        lines.push(Line::from(vec![
            format!("{name:<13}").into(),
            ratatui::text::Span::styled(text, palette.style(mood)),
        ]));
    };
    if app.side() == Side::Above {
        fact("domain", (Mood::Plain, format!("{}, above that of this node", status.domain)));
    }
    fact("role", words::standing(status));
    if let Some(upper) = &status.upper {
        fact("above", words::above(upper));
    }
    fact("synchronised", words::synchronised(status));
    fact("correction", (Mood::Plain, words::correction(status)));
    if let Some(refused) = words::refused(status) {
        fact("refused", refused);
    }
    lines
}

fn draw_body(frame: &mut Frame<'_>, app: &App, palette: Palette, area: Rect) {
    let Some(status) = app.status() else {
        return;
    };
    let happenings = if area.height < ALL_PARTS { 0 } else { (area.height / 5).clamp(4, MANY_HAPPENINGS) };
    let [upper, lower] = Layout::vertical([Constraint::Min(0), Constraint::Length(happenings)]).areas(area);
    draw_happenings(frame, app, palette, lower);
    if status.role != RoleName::Master {
        let [one, other] = Layout::vertical([Constraint::Fill(1), Constraint::Fill(1)]).areas(upper);
        let samples = || app.observation().samples_after(0);
        let corrections = samples().map(|sample| (sample.at, sample.correction)).collect();
        draw_own(frame, app.now(), one, ("corrections of this clock", corrections, true), palette);
        let bounds = samples().filter(|sample| sample.error_bound < Span::MAX);
        let bounds = bounds.map(|sample| (sample.at, sample.error_bound)).collect();
        draw_own(frame, app.now(), other, ("its error bound", bounds, false), palette);
        return;
    }
    let rows = u16::try_from(status.peers.len()).unwrap_or(u16::MAX).saturating_add(1);
    let has_chart = upper.height >= CHART_AND_TABLE && !status.peers.is_empty();
    let table_height = if has_chart { rows.min(upper.height / 2) } else { upper.height };
    let [chart, table] = Layout::vertical([Constraint::Min(0), Constraint::Length(table_height)]).areas(upper);
    draw_offsets(frame, app, status, palette, chart);
    draw_table(frame, app, palette, table);
}

/// A title and what is left below it.
fn titled(frame: &mut Frame<'_>, area: Rect, title: &str) -> Rect {
    let [top, rest] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    frame.render_widget(Line::from(title).bold(), top);
    rest
}

/// One value of the node itself.
fn draw_own(
    frame: &mut Frame<'_>,
    now: LocalTime,
    area: Rect,
    (title, points, is_signed): (&str, Vec<(LocalTime, Span)>, bool),
    palette: Palette,
) {
    let area = titled(frame, area, title);
    if points.is_empty() {
        frame.render_widget(Line::from("not known yet").dim(), area);
        return;
    }
    let limit = limit(points.iter().map(|(_, value)| *value));
    let layer = Layer { shape: Shape::Line, colour: palette.colour(Color::Cyan), points };
    Chart { layers: vec![layer], now, limit, is_signed }.draw(frame, area);
}

/// The slaves' offsets. The scale is that of those who are as they should be.
fn draw_offsets(frame: &mut Frame<'_>, app: &App, status: &Status, palette: Palette, area: Rect) {
    if area.height == 0 {
        return;
    }
    let (selected, counted) = (app.selected(), status.peers.iter().filter(|peer| peer.counted).count());
    let line = selected.map(|node| format!("; the line is {node}")).unwrap_or_default();
    let area = titled(frame, area, &format!("offsets, {counted} of {} counted{line}", status.peers.len()));
    let usual = status.peers.iter().filter(|peer| words::mood(peer) == Mood::Plain);
    let usual: BTreeSet<u64> = usual.map(|peer| peer.node_id).collect();
    let points = |is_wanted: &dyn Fn(u64) -> bool| -> Vec<(LocalTime, Span)> {
        let of_sample = |sample: &Sample| {
            let points = sample.points.iter().filter(|point| is_wanted(point.node.get()));
            points.map(|point| (sample.at, point.offset)).collect::<Vec<_>>()
        };
        app.observation().samples_after(0).flat_map(of_sample).collect()
    };
    let layer = |shape, colour, points| Layer { shape, colour: palette.colour(colour), points };
    let layers = [
        layer(Shape::Dots, Color::Yellow, points(&|node| !usual.contains(&node))),
        layer(Shape::Dots, Color::Cyan, points(&|node| usual.contains(&node))),
        layer(Shape::Line, Color::LightGreen, points(&|node| Some(node) == selected)),
    ];
    // The line's own scale; else that of the usual, or of all where nothing is usual.
    let shown = layers.iter().rev().find(|layer| !layer.points.is_empty());
    let limit = limit(shown.iter().flat_map(|layer| &layer.points).map(|(_, offset)| *offset));
    Chart { layers: layers.into(), now: app.now(), limit, is_signed: true }.draw(frame, area);
}

/// As many slaves and columns as there is room for.
fn draw_table(frame: &mut Frame<'_>, app: &App, palette: Palette, area: Rect) {
    let peers = app.peers();
    let Some(rows) = usize::from(area.height).checked_sub(1) else {
        return;
    };
    if peers.is_empty() {
        frame.render_widget(Line::from("no slaves").dim(), area);
        return;
    }
    let columns = columns(app, &peers, usize::from(area.width));
    let selected = peers.iter().position(|peer| Some(peer.node_id) == app.selected());
    // The selected one in the middle, as far as there are others around it.
    let first = selected.unwrap_or(0).saturating_sub(rows / 2).min(peers.len().saturating_sub(rows));
    let shown = peers.iter().enumerate().skip(first).take(rows);
    let header = row(&columns, |column| title(app, column));
    let mut lines = vec![Line::from(header).bold()];
    for (place, peer) in shown {
        let line = palette.line((words::mood(peer), row(&columns, |column| column.cell(peer))));
        lines.push(if Some(place) == selected { line.reversed() } else { line });
    }
    frame.render_widget(Text::from(lines), area);
    if peers.len() > rows {
        let text = format!(" {}-{} of {}", first + 1, (first + rows).min(peers.len()), peers.len());
        frame.render_widget(Line::from(text).right_aligned(), Rect { height: 1, ..area });
    }
}

/// A column's title, with an arrow when the rows follow it.
fn title(app: &App, column: Column) -> String {
    let order = app.order();
    match (order.column == column, order.is_reversed) {
        (false, _) => column.title().to_owned(),
        (true, false) => format!("{}↓", column.title()),
        (true, true) => format!("{}↑", column.title()),
    }
}

/// The most important columns that fit, from left to right, with their widths.
fn columns(app: &App, peers: &[&PeerStatus], room: usize) -> Vec<(Column, usize)> {
    let width = |column: Column| {
        let cells = peers.iter().map(|peer| column.cell(peer)).chain([title(app, column)]);
        let cells: Vec<String> = cells.collect();
        let width = words::width(cells.iter().map(String::as_str));
        if column.is_number() { width.max(NUMBER_WIDTH) } else { width }
    };
    let mut left = room + GAP;
    let fitting = IMPORTANT.map(|column| (column, width(column))).into_iter().take_while(|(_, width)| {
        left = left.saturating_sub(width + GAP);
        left > 0
    });
    let mut fitting: Vec<(Column, usize)> = fitting.collect();
    fitting.sort_by_key(|(column, _)| Column::ALL.iter().position(|other| other == column));
    fitting
}

fn row(columns: &[(Column, usize)], cell: impl Fn(Column) -> String) -> String {
    let cells = columns.iter().map(|(column, width)| words::aligned(*column, &cell(*column), *width));
    cells.collect::<Vec<_>>().join("  ")
}

fn draw_happenings(frame: &mut Frame<'_>, app: &App, palette: Palette, area: Rect) {
    if area.height == 0 {
        return;
    }
    let area = titled(frame, area, "what happened (UTC)");
    let happenings = app.happenings(usize::from(area.height));
    if happenings.is_empty() {
        frame.render_widget(Line::from("nothing since this was started").dim(), area);
    }
    let lines = happenings.iter().map(|(domain, dated)| {
        let time = app.system_at(dated.at).map(time_of_day).unwrap_or_default();
        let domain = domain.map(|domain| format!("domain {domain}: ")).unwrap_or_default();
        let mood = if dated.happening.is_worrying() { Mood::Doubtful } else { Mood::Plain };
        palette.line((mood, format!("{time}  {domain}{}", dated.happening)))
    });
    frame.render_widget(Text::from(lines.collect::<Vec<_>>()), area);
}

/// The keys that do something here.
fn keys_line(app: &App) -> String {
    let pause = if app.is_paused() { "space go on" } else { "space pause" };
    let table = if app.peers().is_empty() { "" } else { "  s sort  r reverse  ↑↓ select" };
    let side = if app.is_submaster() { "  Tab other domain" } else { "" };
    format!("q quit  ? help  {pause}{table}{side}")
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let width = words::width(HELP.lines()) + 4;
    let size = |length: usize, room: u16| u16::try_from(length).unwrap_or(room).min(room);
    let (width, height) = (size(width, area.width), size(HELP.lines().count() + 2, area.height));
    let place = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, place);
    let block = Block::bordered().title(" keys ").padding(ratatui::widgets::Padding::horizontal(1));
    frame.render_widget(Paragraph::new(HELP).block(block), place);
}
