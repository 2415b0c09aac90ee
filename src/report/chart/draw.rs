//! What a chart is drawn of: marks, limits, spreads, lines.

use super::{FONT, Failed, Limit, Line, Mark, Plane, Style, TEXT};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub(super) fn rectangle(
    xs: &std::ops::Range<f64>,
    top: f64,
    (from, to): (f64, f64),
    (low, high): (f64, f64),
    colour: RGBAColor,
) -> Rectangle<(f64, f64)> {
    let clamp = |x: f64| x.clamp(xs.start, xs.end);
    Rectangle::new([(clamp(from), low.clamp(0.0, top)), (clamp(to), high.clamp(0.0, top))], colour.filled())
}

pub(super) fn draw_mark<DB: DrawingBackend>(
    area: &DrawingArea<DB, plotters::coord::Shift>,
    chart: &mut Plane<DB>,
    mark: &Mark,
    (xs, top): (&std::ops::Range<f64>, f64),
) -> Result<(), Failed<DB>> {
    let colour = mark.colour;
    chart.draw_series([rectangle(xs, top, (mark.from, mark.to), (0.0, top), colour.mix(0.15))])?;
    chart.draw_series([PathElement::new([(mark.at, 0.0), (mark.at, top)], colour.stroke_width(2))])?;
    // To the side on which there is more room.
    let right = mark.at > f64::midpoint(xs.start, xs.end);
    let side = if right { HPos::Right } else { HPos::Left };
    let style = (FONT, TEXT).into_font().color(&colour).pos(Pos::new(side, VPos::Bottom));
    let (x, y) = chart.plotting_area().map_coordinate(&(mark.at, top));
    let origin = area.get_base_pixel();
    // A label that hangs over the edge of the plane to the right still ends in the picture.
    let shift = if right { 8 } else { -8 };
    area.draw(&Text::new(mark.label.clone(), (x - origin.0 + shift, y - origin.1 - 5), style))
}

pub(super) fn draw_limit<DB: DrawingBackend>(
    chart: &mut Plane<DB>,
    limit: &Limit,
    (xs, top): (&std::ops::Range<f64>, f64),
) -> Result<(), Failed<DB>> {
    if limit.value > top {
        return Ok(());
    }
    if let Some(band) = limit.band {
        chart.draw_series([rectangle(xs, top, (xs.start, xs.end), band, limit.colour.mix(0.16))])?;
    }
    let ends = [(xs.start, limit.value), (xs.end, limit.value)];
    chart.draw_series(DashedLineSeries::new(ends, 7, 4, limit.colour.stroke_width(2)))?;
    let above = limit.band.map_or(limit.value, |band| band.1.min(top));
    // Below the limit where there is no room above it.
    let (y, side) = if above > top * 0.9 {
        (limit.band.map_or(limit.value, |band| band.0) - top * 0.015, VPos::Top)
    } else {
        (above + top * 0.015, VPos::Bottom)
    };
    let style = (FONT, TEXT).into_font().color(&limit.colour).pos(Pos::new(HPos::Left, side));
    let x = xs.start + (xs.end - xs.start) * 0.012;
    chart.draw_series([Text::new(limit.label.clone(), (x, y), style)])?;
    Ok(())
}

/// The band around a line, or the bars at its dots.
pub(super) fn draw_spread<DB: DrawingBackend>(
    chart: &mut Plane<DB>,
    line: &Line,
    top: f64,
) -> Result<(), Failed<DB>> {
    let inside =
        line.spread.iter().filter(|(x, low, high)| x.is_finite() && low.is_finite() && high.is_finite());
    if line.style == Style::Line {
        let upper = inside.clone().map(|(x, _, high)| (*x, high.min(top)));
        let lower = inside.map(|(x, low, _)| (*x, low.min(top)));
        let mut around: Vec<(f64, f64)> = upper.collect();
        around.extend(lower.collect::<Vec<_>>().into_iter().rev());
        if around.len() > 3 {
            chart.draw_series([Polygon::new(around, line.colour.mix(0.18).filled())])?;
        }
        return Ok(());
    }
    let bars = inside.map(|(x, low, high)| {
        PathElement::new([(*x, low.min(top)), (*x, high.min(top))], line.colour.stroke_width(2))
    });
    chart.draw_series(bars)?;
    Ok(())
}

pub(super) fn draw_line<DB: DrawingBackend>(
    chart: &mut Plane<DB>,
    line: &Line,
    top: f64,
) -> Result<(), Failed<DB>> {
    let colour = line.colour;
    let width = if line.style == Style::Dotted { 1 } else { 2 };
    if matches!(line.style, Style::Line | Style::Dotted) {
        for stretch in below(&line.points, top) {
            chart.draw_series(LineSeries::new(stretch, colour.stroke_width(width)))?;
        }
    }
    let dots = line.points.iter().filter_map(|(x, y)| Some((*x, y.filter(|y| !y.is_nan())?)));
    let (inside, beyond): (Vec<_>, Vec<_>) = dots.partition(|point| point.1 <= top);
    match line.style {
        Style::Line => {}
        Style::Rings => {
            chart.draw_series(inside.into_iter().map(|p| Circle::new(p, 6, colour.stroke_width(2))))?;
        }
        Style::Dotted | Style::Dots => {
            chart.draw_series(inside.into_iter().map(|p| Circle::new(p, 4, colour.filled())))?;
            let at_edge =
                beyond.into_iter().map(|p| TriangleMarker::new((p.0, top * 0.985), 6, colour.filled()));
            chart.draw_series(at_edge)?;
        }
    }
    Ok(())
}

/// The stretches of a line that are known and not above `top`, cut where the line crosses it.
pub(super) fn below(points: &[(f64, Option<f64>)], top: f64) -> Vec<Vec<(f64, f64)>> {
    let mut stretches: Vec<Vec<(f64, f64)>> = vec![Vec::new()];
    let mut before: Option<(f64, f64)> = None;
    for (x, y) in points {
        let here = y.filter(|y| y.is_finite()).map(|y| (*x, y));
        let crossing = before.zip(here).filter(|(a, b)| (a.1 > top) != (b.1 > top));
        let cut = crossing.map(|(a, b)| (a.0 + (b.0 - a.0) * (top - a.1) / (b.1 - a.1), top));
        if let Some(stretch) = stretches.last_mut() {
            stretch.extend(cut);
            stretch.extend(here.filter(|point| point.1 <= top));
        }
        if here.is_none_or(|point| point.1 > top) {
            stretches.push(Vec::new());
        }
        before = here;
    }
    stretches.retain(|stretch| !stretch.is_empty());
    stretches
}
