//! One chart as SVG: lines, limits, bands. Knows nothing of what it draws.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Okabe and Ito's colours, told apart by people with any colour vision.
pub(super) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(super) const ORANGE: RGBColor = RGBColor(230, 159, 0);
pub(super) const GREEN: RGBColor = RGBColor(0, 158, 115);
pub(super) const VERMILION: RGBColor = RGBColor(213, 94, 0);
pub(super) const PURPLE: RGBColor = RGBColor(204, 121, 167);
pub(super) const GREY: RGBColor = RGBColor(120, 120, 120);

const SIZE: (u32, u32) = (760, 340);
const FONT: &str = "sans-serif";

/// A line through points; a gap wherever `None` stands.
pub(super) struct Line {
    pub label: String,
    pub colour: RGBColor,
    pub points: Vec<(f64, Option<f64>)>,
    pub marks: bool,
}

/// A horizontal limit with its label.
pub(super) struct Limit {
    pub label: String,
    pub colour: RGBColor,
    pub value: f64,
    /// A band around it, from and to.
    pub band: Option<(f64, f64)>,
}

/// A chart.
pub(super) struct Chart<'a> {
    pub title: &'a str,
    pub x_title: &'a str,
    pub y_title: &'a str,
    pub lines: Vec<Line>,
    pub limits: Vec<Limit>,
    /// A marked stretch of the x axis (from, to) and the point in it.
    pub mark: Option<(f64, f64, f64)>,
    /// Stretches of the x axis that are shaded, every second one of the steps.
    pub shaded: Vec<(f64, f64)>,
    /// The y axis goes at least up to here.
    pub y_least: f64,
}

impl Chart<'_> {
    /// The SVG. Black becomes the colour of the text around, so that it suits light and dark pages.
    pub(super) fn draw(&self) -> Result<String, String> {
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            self.draw_on(&area).map_err(|error| error.to_string())?;
            area.present().map_err(|error| error.to_string())?;
        }
        let svg = svg.replace("\"#000000\"", "\"currentColor\"");
        let view = format!("<svg viewBox=\"0 0 {} {}\" role=\"img\" ", SIZE.0, SIZE.1);
        Ok(svg.replacen("<svg ", &view, 1))
    }

    fn x_range(&self) -> std::ops::Range<f64> {
        let xs = self.lines.iter().flat_map(|line| line.points.iter().map(|p| p.0)).filter(|x| x.is_finite());
        let (low, high) =
            xs.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
        if low > high {
            return 0.0..1.0;
        }
        let start = if self.shaded.is_empty() { 0.0 } else { low };
        start..(high + (high - start).max(1e-9) * 0.03)
    }

    fn y_top(&self) -> f64 {
        let ys = self.lines.iter().flat_map(|line| line.points.iter().filter_map(|p| p.1));
        let limits = self.limits.iter().map(|limit| limit.band.map_or(limit.value, |band| band.1));
        let highest = ys.chain(limits).filter(|y| y.is_finite()).fold(self.y_least, f64::max);
        if highest > 0.0 { highest * 1.12 } else { 1.0 }
    }

    fn draw_on<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, plotters::coord::Shift>,
    ) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
        let (xs, top) = (self.x_range(), self.y_top());
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, (FONT, 17))
            .margin(8)
            .margin_right(16)
            .x_label_area_size(42)
            .y_label_area_size(58)
            .build_cartesian_2d(xs.clone(), 0.0..top)?;
        let span = xs.end - xs.start;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GREY.mix(0.18))
            .axis_style(GREY.mix(0.7))
            .label_style((FONT, 13))
            .x_desc(self.x_title)
            .y_desc(self.y_title)
            .x_labels(9)
            .y_labels(6)
            .x_label_formatter(&|x| number(*x, span))
            .y_label_formatter(&|y| number(*y, top))
            .draw()?;
        let rectangle = |from: f64, to: f64, low: f64, high: f64, colour: RGBAColor| {
            let clamp = |x: f64| x.clamp(xs.start, xs.end);
            Rectangle::new(
                [(clamp(from), low.clamp(0.0, top)), (clamp(to), high.clamp(0.0, top))],
                colour.filled(),
            )
        };
        chart.draw_series(
            self.shaded.iter().map(|(from, to)| rectangle(*from, *to, 0.0, top, GREY.mix(0.09))),
        )?;
        if let Some((from, to, at)) = self.mark {
            chart.draw_series([rectangle(from, to, 0.0, top, GREEN.mix(0.13))])?;
            chart.draw_series([PathElement::new([(at, 0.0), (at, top)], GREEN.stroke_width(2))])?;
        }
        for limit in &self.limits {
            if let Some((low, high)) = limit.band {
                chart.draw_series([rectangle(xs.start, xs.end, low, high, limit.colour.mix(0.13))])?;
            }
            let ends = [(xs.start, limit.value), (xs.end, limit.value)];
            chart.draw_series(DashedLineSeries::new(ends, 6, 4, limit.colour.stroke_width(2)))?;
            let style = (FONT, 12).into_font().color(&limit.colour).pos(Pos::new(HPos::Right, VPos::Bottom));
            chart.draw_series([Text::new(limit.label.clone(), (xs.end, limit.value + top * 0.01), style)])?;
        }
        for line in &self.lines {
            draw_line(&mut chart, line)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .margin(8)
            .label_font((FONT, 13))
            .background_style(TRANSPARENT)
            .draw()
    }
}

type Plane<'a, DB> = ChartContext<
    'a,
    DB,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn draw_line<DB: DrawingBackend>(
    chart: &mut Plane<DB>,
    line: &Line,
) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    let colour = line.colour;
    let finite = |(x, y): &(f64, Option<f64>)| y.filter(|y| y.is_finite()).map(|y| (*x, y));
    for stretch in line.points.split(|point| finite(point).is_none()) {
        let points: Vec<(f64, f64)> = stretch.iter().filter_map(finite).collect();
        chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
        if line.marks {
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
        }
    }
    // An empty series carries the legend, however many stretches there are.
    chart
        .draw_series(LineSeries::new(std::iter::empty::<(f64, f64)>(), colour.stroke_width(2)))?
        .label(line.label.clone())
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3)));
    Ok(())
}

/// A tick: as many decimals as the span needs.
fn number(value: f64, span: f64) -> String {
    let decimals = if span >= 20.0 {
        0
    } else if span >= 2.0 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}")
}
