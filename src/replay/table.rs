//! A figure over a grid of equal steps: what is looked up once per simulated second.

use serde::{Deserialize, Serialize};

/// A figure at 0, `step`, 2 `step`, and so on: straight between, constant beyond the last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Table {
    step: f64,
    /// Its inverse: a multiplication is quicker than a division.
    per_unit: f64,
    values: Vec<f64>,
}

impl Table {
    /// `figure` at `points` places from 0 to `end`, both included. At least two places are taken.
    pub(super) fn tabulate(end: f64, points: usize, figure: impl Fn(f64) -> f64) -> Table {
        let points = points.max(2);
        let step = end / (points - 1) as f64;
        Table { step, per_unit: step.recip(), values: (0..points).map(|i| figure(i as f64 * step)).collect() }
    }

    /// A line through `points`, which are in the order of their places: straight between them, and
    /// constant outside. Zero where there are none.
    pub(super) fn through(points: &[(f64, f64)], end: f64, places: usize) -> Table {
        Table::tabulate(end, places, |x| interpolate(points, x))
    }

    /// The figure at a place from 0 on.
    #[inline]
    pub(super) fn at(&self, place: f64) -> f64 {
        let position = (place * self.per_unit).max(0.0);
        let below = position as usize;
        match (self.values.get(below), self.values.get(below + 1)) {
            (Some(low), Some(high)) => low + (high - low) * (position - below as f64),
            _ => self.values.last().copied().unwrap_or(0.0),
        }
    }

    /// The last place of the grid.
    pub(super) fn end(&self) -> f64 {
        self.step * (self.values.len().saturating_sub(1)) as f64
    }

    /// The first place at which a figure that never falls reaches `value`. `None`: it stays below.
    pub(super) fn place_of(&self, value: f64) -> Option<f64> {
        let above = self.values.partition_point(|figure| *figure < value);
        let high = self.values.get(above)?;
        let Some(low) = above.checked_sub(1).and_then(|i| self.values.get(i)) else { return Some(0.0) };
        Some(self.step * ((above - 1) as f64 + (value - low) / (high - low)))
    }
}

fn interpolate(points: &[(f64, f64)], x: f64) -> f64 {
    let above = points.partition_point(|point| point.0 <= x);
    match (above.checked_sub(1).and_then(|i| points.get(i)), points.get(above)) {
        (Some(low), Some(high)) => low.1 + (high.1 - low.1) * (x - low.0) / (high.0 - low.0),
        (Some(end), None) | (None, Some(end)) => end.1,
        (None, None) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_straight_between_its_points_and_constant_beyond() {
        let table = Table::through(&[(0.0, 0.0), (2.0, 4.0), (4.0, 5.0)], 8.0, 17);
        assert_eq!([table.at(1.0), table.at(3.0), table.at(6.0), table.at(99.0)], [2.0, 4.5, 5.0, 5.0]);
        assert_eq!(table.at(-1.0), 0.0);
        assert_eq!(table.end(), 8.0);
        assert_eq!(
            (table.place_of(2.0), table.place_of(4.5), table.place_of(5.1)),
            (Some(1.0), Some(3.0), None)
        );
        assert_eq!(table.place_of(-1.0), Some(0.0));
    }
}
