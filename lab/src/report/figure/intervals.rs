//! A row for each thing: a mark where it is, and a line from one end of its interval to the other.

use plotters::style::text_anchor::HPos;

use super::{
    Fit, Intervals, Row,
    axis::Axis,
    canvas::{
        Canvas, DrawError, Drawn, GRID, INK, color, count, drawn, height, legend, legend_height, mark, pixel,
        rule, say,
    },
};

pub(super) fn draw(plot: &Intervals, fit: Fit) -> Result<Drawn, DrawError> {
    let layout = Layout::of(plot, fit);
    drawn(fit, height(layout.bottom + BELOW_PX), |canvas| {
        legend(canvas, fit, &plot.series)?;
        layout.grid(canvas, plot)?;
        for (place, row) in plot.rows.iter().enumerate() {
            layout.row(canvas, place, row)?;
        }
        Ok(())
    })
}

struct Layout {
    fit: Fit,
    axis: Axis,
    left: i32,
    right: i32,
    top: i32,
    bottom: i32,
    row_px: i32,
}

impl Layout {
    fn of(plot: &Intervals, fit: Fit) -> Self {
        let intervals = plot.rows.iter().flat_map(|row| row.values.iter().flatten());
        let values = intervals.flat_map(|interval| [interval.low, interval.high, interval.estimate]);
        let axis = Axis::holding(values.chain(plot.reference), plot.logarithmic);
        let series = count(plot.series.len()).max(1);
        // In the hand a name stands above its row; at the desk before it.
        let row_px = series * SERIES_PX + if fit == Fit::Hand { 22 } else { 12 };
        let top = legend_height(fit, plot.series.len());
        let bottom = top + row_px * count(plot.rows.len());
        let left = if fit == Fit::Hand { 10 } else { NAMES_PX };
        Self { fit, axis, left, right: fit.width_px() - 22, top, bottom, row_px }
    }

    fn x(&self, value: f64) -> i32 {
        pixel(self.axis.place(value), &self.axis.ends(), (self.left, self.right))
    }

    fn grid(&self, canvas: &Canvas<'_>, plot: &Intervals) -> Result<(), DrawError> {
        for (value, text) in self.axis.ticks(if self.fit == Fit::Hand { 5 } else { 8 }) {
            let x = self.x(value);
            rule(canvas, (x, self.top), (x, self.bottom), GRID, 1)?;
            say(canvas, &text, (x, self.bottom + 12), HPos::Center, INK)?;
        }
        if let Some(reference) = plot.reference {
            let x = self.x(reference);
            rule(canvas, (x, self.top), (x, self.bottom), INK, 2)?;
        }
        let middle = i32::midpoint(self.left, self.right);
        say(canvas, &plot.axis, (middle, self.bottom + 32), HPos::Center, INK)
    }

    fn row(&self, canvas: &Canvas<'_>, place: usize, row: &Row) -> Result<(), DrawError> {
        let top = self.top + count(place) * self.row_px;
        let middle = top + self.row_px / 2;
        let first = match self.fit {
            Fit::Desk => {
                say(canvas, &row.name, (self.left - 12, middle), HPos::Right, INK)?;
                middle - (count(row.values.len()) - 1) * SERIES_PX / 2
            }
            Fit::Hand => {
                say(canvas, &row.name, (self.left, top + 10), HPos::Left, INK)?;
                top + 26
            }
        };
        for (series, interval) in row.values.iter().enumerate() {
            let Some(interval) = interval else { continue };
            let y = first + count(series) * SERIES_PX;
            rule(canvas, (self.x(interval.low), y), (self.x(interval.high), y), color(series), 3)?;
            mark(canvas, series, (self.x(interval.estimate), y))?;
        }
        Ok(())
    }
}

const SERIES_PX: i32 = 14;
const NAMES_PX: i32 = 210;
/// Numbers of the axis, and what they are.
const BELOW_PX: i32 = 44;
