//! What both kinds of figure are drawn with.

use plotters::{
    coord::Shift,
    prelude::{
        Circle, DrawingArea, EmptyElement, IntoDrawingArea, PathElement, RGBColor, Rectangle, SVGBackend,
        ShapeStyle, TriangleMarker,
    },
    style::{
        Color as _, IntoFont as _, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};
use thiserror::Error;

use super::Fit;

/// Where everything is drawn, in pixels.
pub(super) type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Why a figure cannot be drawn.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub(super) struct DrawError(String);

impl<E: std::error::Error + Send + Sync> From<plotters::drawing::DrawingAreaErrorKind<E>> for DrawError {
    fn from(error: plotters::drawing::DrawingAreaErrorKind<E>) -> Self {
        Self(error.to_string())
    }
}

/// What is between `<svg …>` and `</svg>`.
pub(super) struct Drawn {
    pub(super) height: u32,
    pub(super) body: String,
}

/// Draws on a canvas of the fit's width.
pub(super) fn drawn(
    fit: Fit,
    height: u32,
    draw: impl FnOnce(&Canvas<'_>) -> Result<(), DrawError>,
) -> Result<Drawn, DrawError> {
    let mut svg = String::new();
    {
        let canvas = SVGBackend::with_string(&mut svg, (fit.width(), height)).into_drawing_area();
        draw(&canvas)?;
        canvas.present()?;
    }
    let body = svg.split_once('>').map_or("", |(_, rest)| rest).trim_end();
    Ok(Drawn { height, body: body.trim_end_matches("</svg>").trim().to_owned() })
}

/// A text whose `at` is at its left, middle or right, and halfway up.
pub(super) fn say(
    canvas: &Canvas<'_>,
    text: &str,
    at: (i32, i32),
    side: HPos,
    color: RGBColor,
) -> Result<(), DrawError> {
    let style =
        TextStyle::from(("sans-serif", FONT_PX).into_font()).color(&color).pos(Pos::new(side, VPos::Center));
    Ok(canvas.draw_text(text, &style, at)?)
}

/// A straight line.
pub(super) fn rule(
    canvas: &Canvas<'_>,
    from: (i32, i32),
    to: (i32, i32),
    color: RGBColor,
    width: u32,
) -> Result<(), DrawError> {
    Ok(canvas.draw(&PathElement::new(vec![from, to], color.stroke_width(width)))?)
}

/// The mark of a series.
pub(super) fn mark(canvas: &Canvas<'_>, series: usize, (x, y): (i32, i32)) -> Result<(), DrawError> {
    let style: ShapeStyle = color(series).filled();
    match series % 4 {
        0 => canvas.draw(&Circle::new((x, y), 5, style))?,
        1 => canvas.draw(&Rectangle::new([(x - 4, y - 4), (x + 5, y + 5)], style))?,
        2 => canvas.draw(&TriangleMarker::new((x, y), 6, style))?,
        _ => canvas.draw(
            &(EmptyElement::at((x, y))
                + PathElement::new(vec![(-5, 0), (0, -5), (5, 0), (0, 5), (-5, 0)], style)),
        )?,
    }
    Ok(())
}

/// What the marks mean, one below the other or beside each other; gives the height that it took.
pub(super) fn legend(canvas: &Canvas<'_>, fit: Fit, series: &[String]) -> Result<(), DrawError> {
    if series.len() < 2 {
        return Ok(());
    }
    let across = fit.width_px() / if fit == Fit::Desk { count(series.len()).max(1) } else { 1 };
    for (place, name) in series.iter().enumerate() {
        let (x, y) = match fit {
            Fit::Desk => (count(place) * across + 12, 14),
            Fit::Hand => (12, 14 + count(place) * LEGEND_PX),
        };
        mark(canvas, place, (x, y))?;
        say(canvas, name, (x + 12, y), HPos::Left, INK)?;
    }
    Ok(())
}

/// How much room [`legend`] takes.
pub(super) fn legend_height(fit: Fit, series: usize) -> i32 {
    match (series < 2, fit) {
        (true, _) => 6,
        (_, Fit::Desk) => LEGEND_PX + 8,
        (_, Fit::Hand) => count(series) * LEGEND_PX + 8,
    }
}

impl Fit {
    pub(super) fn width_px(self) -> i32 {
        i32::try_from(self.width()).unwrap_or(i32::MAX)
    }
}

/// The colour of a series.
pub(super) fn color(series: usize) -> RGBColor {
    SERIES.get(series % SERIES.len()).copied().unwrap_or(INK)
}

/// Where between `start` and `end` pixels a place between `from` and `to` lies.
#[expect(clippy::cast_possible_truncation, reason = "kept within the pixels of a figure")]
pub(super) fn pixel(place: f64, ends: &std::ops::Range<f64>, (start, end): (i32, i32)) -> i32 {
    let share = ((place - ends.start) / (ends.end - ends.start)).clamp(0.0, 1.0);
    (f64::from(start) + share * f64::from(end - start)).round() as i32
}

/// How many, as pixels are counted.
pub(super) fn count(of: usize) -> i32 {
    i32::try_from(of).unwrap_or(i32::MAX)
}

/// As pixels of a height are counted.
pub(super) fn height(of: i32) -> u32 {
    u32::try_from(of).unwrap_or(0)
}

/// Distinct to those who see few colours (Okabe and Ito), and from each other in grey.
const SERIES: [RGBColor; 4] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xa0, 0x4e, 0x86),
];
pub(super) const INK: RGBColor = RGBColor(0x1f, 0x23, 0x28);
pub(super) const GRID: RGBColor = RGBColor(0xd8, 0xde, 0xe4);
/// As the library counts it: it writes a font of 1/1.24 of this.
pub(super) const FONT_PX: u32 = 16;
const LEGEND_PX: i32 = 20;
