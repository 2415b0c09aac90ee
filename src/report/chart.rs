//! One chart as SVG: lines, dots, limits, bands. Knows nothing of what it draws.
//!
//! A chart is drawn in two ways from the same parts: as a file of its own, with title and key in the picture, and
//! for the page, which sets title and key as text around it, colours it by its own palette and is given the
//! figures behind it.

mod draw;

use askama::Template;
use draw::{draw_limit, draw_line, draw_mark, draw_spread, rectangle};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde_json::{Value, json};

/// Okabe and Ito's colours, told apart by people with any colour vision.
pub(super) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(super) const ORANGE: RGBColor = RGBColor(230, 159, 0);
pub(super) const GREEN: RGBColor = RGBColor(0, 158, 115);
pub(super) const VERMILION: RGBColor = RGBColor(213, 94, 0);
pub(super) const PURPLE: RGBColor = RGBColor(204, 121, 167);
pub(super) const GREY: RGBColor = RGBColor(120, 120, 120);
/// Their names in the style sheet of the page, which has brighter ones for dark screens.
const NAMES: [(RGBColor, &str); 6] = [
    (BLUE, "blue"),
    (ORANGE, "orange"),
    (GREEN, "green"),
    (VERMILION, "vermilion"),
    (PURPLE, "purple"),
    (GREY, "grey"),
];

/// The name of a colour in the style sheet of the page.
pub(super) fn name(colour: RGBColor) -> &'static str {
    NAMES.iter().find(|named| named.0 == colour).map_or("grey", |named| named.1)
}

/// The plane of a chart that stands in one of two columns, and of one as wide as the page.
const HALF: (u32, u32) = (560, 310);
const WIDE: (u32, u32) = (1120, 176);
const FONT: &str = "sans-serif";
/// plotters divides sizes by 1.24: this comes out as 13 pixels.
const TEXT: f64 = 16.0;
const ROW: i32 = 22;
/// About as wide is a letter.
const LETTER: i32 = 7;

/// How the points of a line are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// As a line alone.
    Line,
    /// As a thin line through dots.
    Dotted,
    /// As dots alone.
    Dots,
    /// As circles, for what is reckoned beside what was measured.
    Rings,
}

/// Points that belong together; a gap wherever `None` stands.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub label: String,
    pub colour: RGBColor,
    pub style: Style,
    pub points: Vec<(f64, Option<f64>)>,
    /// Where its values lie, from and to: a band around a line, bars at dots.
    pub spread: Vec<(f64, f64, f64)>,
}

impl Line {
    pub(super) fn new(
        label: impl Into<String>,
        colour: RGBColor,
        style: Style,
        points: Vec<(f64, Option<f64>)>,
    ) -> Line {
        Line { label: label.into(), colour, style, points, spread: Vec::new() }
    }

    pub(super) fn with_spread(self, spread: Vec<(f64, f64, f64)>) -> Line {
        Line { spread, ..self }
    }

    fn is_empty(&self) -> bool {
        self.points.iter().all(|point| point.1.is_none())
    }
}

/// A horizontal limit with its label.
#[derive(Debug, Clone)]
pub(super) struct Limit {
    pub label: String,
    pub colour: RGBColor,
    pub value: f64,
    /// A band around it, from and to.
    pub band: Option<(f64, f64)>,
}

/// A marked stretch of the x axis and the point in it.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub label: String,
    pub from: f64,
    pub to: f64,
    pub at: f64,
    pub colour: RGBColor,
}

/// A chart.
#[derive(Debug, Clone, Default)]
pub(super) struct Chart {
    pub title: String,
    pub x_title: &'static str,
    pub y_title: String,
    pub lines: Vec<Line>,
    pub limits: Vec<Limit>,
    pub marks: Vec<Mark>,
    /// Stretches of the x axis that are shaded, with what stands above them: every second one of the steps.
    pub shaded: Vec<(f64, f64)>,
    /// What stands at the top of the plane, and from where on.
    pub heads: Vec<(f64, String)>,
    /// Whether the x axis begins with the first point and not at 0.
    pub x_from_first: bool,
    /// The y axis goes at least up to here.
    pub y_least: f64,
    /// And at most up to here; what lies above is cut off, and dots there stand at the edge.
    pub y_most: Option<f64>,
    /// Whether it is as wide as the page.
    pub wide: bool,
}

/// A picture for the page, which is its text.
#[derive(Debug, Clone, PartialEq, Eq, Template)]
#[template(path = "figure.html", config = "src/report/askama.toml")]
pub(super) struct Figure {
    /// What it shows.
    title: String,
    /// Label, kind and colour of what is in it.
    key: Vec<Key>,
    /// The picture.
    svg: String,
    /// The figures behind it, as JSON, for who points at it.
    data: String,
    /// Whether it is as wide as the page.
    wide: bool,
}

/// A line of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    label: String,
    kind: &'static str,
    colour: &'static str,
}

type Failed<DB> = DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>;
type Plane<'a, DB> = ChartContext<
    'a,
    DB,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

impl Chart {
    /// Whether there is nothing to see.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.iter().all(Line::is_empty)
    }

    /// The chart as a file of its own.
    pub(super) fn file(&self) -> Result<String, String> {
        let rows = if self.wide { 1 } else { self.visible().count().max(1) as u32 };
        let head = 30 + ROW.unsigned_abs() * rows;
        let (svg, _) = self.draw(head)?;
        // It may lie on any page, also a dark one.
        Ok(svg.replacen("<svg ", "<svg style=\"color:#1b1f24;background:#fff\" ", 1))
    }

    /// The chart for the page.
    pub(super) fn figure(&self) -> Result<Figure, String> {
        let (mut svg, place) = self.draw(0)?;
        for (RGBColor(r, g, b), name) in NAMES {
            svg = svg.replace(&format!("\"#{r:02X}{g:02X}{b:02X}\""), &format!("\"var(--{name})\""));
        }
        let label = format!("<svg aria-label=\"{}\" ", escaped(&self.title));
        let svg = svg.replacen("<svg ", &label, 1);
        Ok(Figure {
            title: self.title.clone(),
            key: self.key(),
            svg,
            data: self.data(place).to_string(),
            wide: self.wide,
        })
    }

    fn visible(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| !line.is_empty())
    }

    fn key(&self) -> Vec<Key> {
        let kind = |style| match style {
            Style::Line => "line",
            Style::Dotted | Style::Dots => "dot",
            Style::Rings => "ring",
        };
        self.visible()
            .map(|line| Key { label: line.label.clone(), kind: kind(line.style), colour: name(line.colour) })
            .collect()
    }

    /// The figures behind the picture: where its plane lies, and the points of its lines.
    fn data(&self, (left, right): (i32, i32)) -> Value {
        let xs = self.x_range();
        let point =
            |(x, y): &(f64, Option<f64>)| y.filter(|y| y.is_finite()).map(|y| json!([short(*x), short(y)]));
        let lines = self.visible().map(|line| {
            json!({
                "label": line.label,
                "colour": name(line.colour),
                "points": line.points.iter().filter_map(point).collect::<Vec<_>>(),
            })
        });
        json!({
            "plane": [left, right],
            "from": short(xs.start),
            "to": short(xs.end),
            "x": self.x_title,
            "y": self.y_title,
            "lines": lines.collect::<Vec<_>>(),
        })
    }

    /// The SVG, with `head` pixels above the plane for title and key, and where its plane lies. Black becomes
    /// the colour of the text around.
    fn draw(&self, head: u32) -> Result<(String, (i32, i32)), String> {
        let (width, height) = if self.wide { WIDE } else { HALF };
        let mut svg = String::new();
        let place = {
            let area = SVGBackend::with_string(&mut svg, (width, height + head)).into_drawing_area();
            let place = self.draw_on(&area, head).map_err(|error| error.to_string())?;
            area.present().map_err(|error| error.to_string())?;
            place
        };
        let svg = svg.replace("\"#000000\"", "\"currentColor\"");
        let view = format!("<svg viewBox=\"0 0 {width} {}\" role=\"img\" ", height + head);
        Ok((svg.replacen("<svg ", &view, 1), place))
    }

    fn x_range(&self) -> std::ops::Range<f64> {
        let spread = |line: &Line| line.spread.iter().map(|spread| spread.0).collect::<Vec<_>>();
        let points = self.lines.iter().flat_map(|line| line.points.iter().map(|p| p.0).chain(spread(line)));
        let marks = self.marks.iter().flat_map(|mark| [mark.at, mark.to]);
        let (low, high) = points
            .chain(marks)
            .filter(|x| x.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
        if low > high {
            return 0.0..1.0;
        }
        let start = if self.x_from_first { low } else { 0.0 };
        // Ticks cannot be counted in a range that is nothing against its ends.
        let width = (high - start).max(high.abs().max(1.0) * 1e-3);
        start..(start + width * 1.03)
    }

    fn y_top(&self) -> f64 {
        let ys = self.lines.iter().flat_map(|line| line.points.iter().filter_map(|p| p.1));
        let spreads = self.lines.iter().flat_map(|line| line.spread.iter().map(|spread| spread.2));
        let limits = self.limits.iter().map(|limit| limit.band.map_or(limit.value, |band| band.1));
        let highest = ys.chain(spreads).chain(limits).filter(|y| y.is_finite()).fold(self.y_least, f64::max);
        let top = if highest > 0.0 { highest * 1.12 } else { 1.0 };
        self.y_most.map_or(top, |most| top.min(most)).max(1e-6)
    }

    fn draw_on<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, plotters::coord::Shift>,
        head: u32,
    ) -> Result<(i32, i32), Failed<DB>> {
        let (head_area, area) = area.split_vertically(head);
        if head > 0 {
            self.draw_head(&head_area)?;
        }
        let (xs, top) = (self.x_range(), self.y_top());
        let mut chart = ChartBuilder::on(&area)
            .margin(6)
            .margin_top(if self.heads.is_empty() && self.marks.is_empty() { 8 } else { 28 })
            .margin_right(18)
            .x_label_area_size(if self.x_title.is_empty() { 28 } else { 50 })
            .y_label_area_size(if self.wide { 66 } else { 78 })
            .build_cartesian_2d(xs.clone(), 0.0..top)?;
        self.draw_mesh(&mut chart, xs.end - xs.start, top)?;
        let plane = chart.plotting_area().get_pixel_range();
        let shade = |(from, to): &(f64, f64)| rectangle(&xs, top, (*from, *to), (0.0, top), GREY.mix(0.10));
        chart.draw_series(self.shaded.iter().map(shade))?;
        self.draw_heads(&area, &chart, top)?;
        for mark in &self.marks {
            draw_mark(&area, &mut chart, mark, (&xs, top))?;
        }
        for line in &self.lines {
            draw_spread(&mut chart, line, top)?;
        }
        for line in &self.lines {
            draw_line(&mut chart, line, top)?;
        }
        for limit in &self.limits {
            draw_limit(&mut chart, limit, (&xs, top))?;
        }
        Ok((plane.0.start, plane.0.end))
    }

    fn draw_mesh<DB: DrawingBackend>(
        &self,
        chart: &mut Plane<DB>,
        span: f64,
        top: f64,
    ) -> Result<(), Failed<DB>> {
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GREY.mix(0.25))
            .axis_style(GREY.mix(0.7))
            .label_style((FONT, TEXT))
            .axis_desc_style((FONT, TEXT))
            .x_desc(self.x_title)
            .y_desc(self.y_title.as_str())
            .x_labels(if self.wide { 12 } else { 7 })
            .y_labels(if self.wide { 4 } else { 6 })
            .x_label_formatter(&|x| number(*x, span / 2.0))
            .y_label_formatter(&|y| number(*y, top))
            .draw()
    }

    /// Title and key in the picture.
    fn draw_head<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, plotters::coord::Shift>,
    ) -> Result<(), Failed<DB>> {
        let text = |size: f64| (FONT, size).into_font().color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(self.title.clone(), (12, 18), text(TEXT * 1.15)))?;
        let (mut x, mut y) = (12, 30 + ROW / 2);
        for line in self.visible() {
            let colour = line.colour;
            match line.style {
                Style::Line => {
                    area.draw(&PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(3)))?;
                }
                Style::Rings => area.draw(&Circle::new((x + 8, y), 4, colour.stroke_width(2)))?,
                Style::Dotted | Style::Dots => area.draw(&Circle::new((x + 8, y), 4, colour.filled()))?,
            }
            area.draw(&Text::new(line.label.clone(), (x + 24, y), text(TEXT)))?;
            if self.wide {
                x += 44 + width(&line.label);
            } else {
                y += ROW;
            }
        }
        Ok(())
    }

    /// What stands above the plane, as far as there is room for it.
    fn draw_heads<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, plotters::coord::Shift>,
        chart: &Plane<DB>,
        top: f64,
    ) -> Result<(), Failed<DB>> {
        let style = (FONT, TEXT * 0.9).into_font().color(&GREY).pos(Pos::new(HPos::Left, VPos::Bottom));
        let origin = area.get_base_pixel();
        let mut free = i32::MIN;
        for (x, text) in &self.heads {
            let (x, y) = chart.plotting_area().map_coordinate(&(*x, top));
            if x >= free {
                area.draw(&Text::new(text.clone(), (x - origin.0 + 3, y - origin.1 - 4), style.clone()))?;
                free = x + width(text) + 8;
            }
        }
        Ok(())
    }
}

/// A tick: as many decimals as the span needs, with some six ticks in it.
fn number(value: f64, span: f64) -> String {
    let decimals = [5.0, 1.0, 0.1].into_iter().take_while(|least| span < *least).count();
    format!("{value:.decimals$}")
}

/// Four digits that count: as much as anyone reads off.
fn short(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// About as wide a text is.
fn width(text: &str) -> i32 {
    i32::try_from(text.chars().count()).unwrap_or(i32::MAX / LETTER) * LETTER
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::draw::below;
    use super::*;

    #[test]
    fn a_line_is_cut_where_it_leaves_the_plane() {
        let points = [(0.0, Some(1.0)), (1.0, Some(3.0)), (2.0, None), (3.0, Some(1.0))];
        assert_eq!(below(&points, 2.0), [vec![(0.0, 1.0), (0.5, 2.0)], vec![(3.0, 1.0)]]);
        assert_eq!(below(&points, 5.0), [vec![(0.0, 1.0), (1.0, 3.0)], vec![(3.0, 1.0)]]);
    }

    #[test]
    fn a_figure_is_coloured_by_the_page_and_a_file_by_itself() {
        let points = vec![(0.0, Some(1.0)), (1.0, Some(2.0))];
        let chart = Chart {
            title: "a <b> & \"c\"".to_owned(),
            lines: vec![Line::new("line", BLUE, Style::Line, points)],
            ..Chart::default()
        };
        let figure = chart.figure().unwrap();
        assert!(figure.svg.contains("var(--blue)") && !figure.svg.contains("#0072B2"), "{}", figure.svg);
        assert!(figure.svg.contains("aria-label=\"a &lt;b> &amp; &quot;c&quot;\""), "{}", figure.svg);
        let data: Value = serde_json::from_str(&figure.data).unwrap();
        assert_eq!(data["lines"][0]["points"], json!([[0.0, 1.0], [1.0, 2.0]]));
        let file = chart.file().unwrap();
        assert!(file.contains("#0072B2") && !file.contains("var("), "{file}");
    }
}
