//! A line for each series over a quantity, with the interval at each point.

use plotters::{
    prelude::PathElement,
    style::{Color as _, text_anchor::HPos},
};

use super::{
    Fit, Line, Lines,
    axis::Axis,
    canvas::{
        Canvas, DrawError, Drawn, GRID, INK, color, drawn, height, legend, legend_height, mark, pixel, rule,
        say,
    },
};

pub(super) fn draw(plot: &Lines, fit: Fit) -> Result<Drawn, DrawError> {
    let layout = Layout::of(plot, fit);
    drawn(fit, height(layout.bottom + BELOW_PX), |canvas| {
        let names: Vec<String> = plot.series.iter().map(|line| line.name.clone()).collect();
        legend(canvas, fit, &names)?;
        layout.grid(canvas, plot)?;
        plot.series.iter().enumerate().try_for_each(|(series, line)| layout.line(canvas, series, line))
    })
}

struct Layout {
    fit: Fit,
    horizontal: Axis,
    vertical: Axis,
    left: i32,
    right: i32,
    top: i32,
    bottom: i32,
}

impl Layout {
    fn of(plot: &Lines, fit: Fit) -> Self {
        let points = || plot.series.iter().flat_map(|line| &line.points);
        let horizontal = Axis::holding(points().map(|(x, _)| *x), plot.horizontal_logarithmic);
        let values = points().flat_map(|(_, interval)| [interval.low, interval.high, interval.estimate]);
        let zero = (!plot.vertical_logarithmic).then_some(0.0);
        let vertical = Axis::holding(values.chain(zero), plot.vertical_logarithmic);
        // The vertical axis is named above it, where it takes no room from the lines.
        let top = legend_height(fit, plot.series.len()) + 22;
        let bottom = top + if fit == Fit::Hand { 220 } else { 280 };
        Self { fit, horizontal, vertical, left: 58, right: fit.width_px() - 22, top, bottom }
    }

    fn at(&self, x: f64, y: f64) -> (i32, i32) {
        let along = pixel(self.horizontal.place(x), &self.horizontal.ends(), (self.left, self.right));
        (along, pixel(self.vertical.place(y), &self.vertical.ends(), (self.bottom, self.top)))
    }

    fn grid(&self, canvas: &Canvas<'_>, plot: &Lines) -> Result<(), DrawError> {
        for (value, text) in self.vertical.ticks(6) {
            let y = pixel(self.vertical.place(value), &self.vertical.ends(), (self.bottom, self.top));
            rule(canvas, (self.left, y), (self.right, y), GRID, 1)?;
            say(canvas, &text, (self.left - 8, y), HPos::Right, INK)?;
        }
        for (value, text) in self.horizontal.ticks(if self.fit == Fit::Hand { 5 } else { 9 }) {
            let x = pixel(self.horizontal.place(value), &self.horizontal.ends(), (self.left, self.right));
            rule(canvas, (x, self.bottom), (x, self.bottom + 5), INK, 1)?;
            say(canvas, &text, (x, self.bottom + 15), HPos::Center, INK)?;
        }
        rule(canvas, (self.left, self.bottom), (self.right, self.bottom), INK, 1)?;
        let middle = i32::midpoint(self.left, self.right);
        say(canvas, &plot.horizontal, (middle, self.bottom + 35), HPos::Center, INK)?;
        say(canvas, &plot.vertical, (8, self.top - 14), HPos::Left, INK)
    }

    fn line(&self, canvas: &Canvas<'_>, series: usize, line: &Line) -> Result<(), DrawError> {
        let path: Vec<(i32, i32)> = line.points.iter().map(|(x, y)| self.at(*x, y.estimate)).collect();
        canvas.draw(&PathElement::new(path.clone(), color(series).stroke_width(2)))?;
        for (x, interval) in &line.points {
            rule(canvas, self.at(*x, interval.low), self.at(*x, interval.high), color(series), 2)?;
        }
        path.into_iter().try_for_each(|at| mark(canvas, series, at))
    }
}

/// Numbers of the axis, and what they are.
const BELOW_PX: i32 = 48;
