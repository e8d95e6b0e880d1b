//! A picture of what was measured over time, a panel for each measure.

use plotters::{
    backend::SVGBackend,
    chart::ChartBuilder,
    coord::Shift,
    drawing::{DrawingArea, IntoDrawingArea},
    element::{PathElement, Rectangle},
    style::{Color, IntoFont, RGBColor, WHITE},
};

const WIDTH: u32 = 960;
const PANEL: u32 = 210;

const INK: RGBColor = RGBColor(40, 44, 52);
const SHADE: RGBColor = RGBColor(236, 240, 246);
const LINE: RGBColor = RGBColor(38, 110, 190);
const BEGAN: RGBColor = RGBColor(226, 132, 38);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One measure over time.
pub(crate) struct Panel {
    /// What is measured, with its unit.
    pub(crate) title: &'static str,
    /// Seconds and values.
    pub(crate) points: Vec<(f64, f64)>,
    /// The value that it is compared with, as a line of its own.
    pub(crate) began: f64,
}

/// The picture as SVG. `load` is shaded: when it began and ended, in seconds.
pub(crate) fn draw(panels: &[Panel], load: (f64, f64), captions: &str) -> Result<String, String> {
    let mut text = String::new();
    {
        let backend = SVGBackend::with_string(&mut text, (WIDTH, PANEL * panels.len() as u32));
        let area = backend.into_drawing_area();
        let drawn = draw_all(&area, panels, load, captions);
        drawn
            .and_then(|()| area.present().map_err(fault))
            .map_err(|e| format!("the picture: {e}"))?;
    }
    Ok(text)
}

fn draw_all(
    area: &Area<'_>,
    panels: &[Panel],
    load: (f64, f64),
    captions: &str,
) -> Result<(), String> {
    area.fill(&WHITE).map_err(fault)?;
    for (area, panel) in area.split_evenly((panels.len(), 1)).iter().zip(panels) {
        draw_panel(area, panel, load, captions)?;
    }
    Ok(())
}

fn draw_panel(
    area: &Area<'_>,
    panel: &Panel,
    load: (f64, f64),
    captions: &str,
) -> Result<(), String> {
    let minutes = |seconds: f64| seconds / 60.0;
    let (title, began) = (panel.title, panel.began);
    let end = panel.points.last().map_or(1.0, |(at, _)| minutes(*at)).max(0.1);
    let most = panel.points.iter().map(|(_, value)| *value).fold(began, f64::max).max(1.0) * 1.1;
    let caption = format!("{title} ({captions})");
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 16).into_font().color(&INK))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..end, 0.0..most)
        .map_err(fault)?;
    let load = Rectangle::new([(minutes(load.0), 0.0), (minutes(load.1), most)], SHADE.filled());
    chart.draw_series(std::iter::once(load)).map_err(fault)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE.mix(0.0))
        .bold_line_style(INK.mix(0.12))
        .axis_style(INK.mix(0.5))
        .y_labels(5)
        .x_labels(10)
        .x_label_formatter(&|minute| format!("{minute:.1} min"))
        .y_label_formatter(&|value| format!("{value:.0}"))
        .label_style(("sans-serif", 13).into_font().color(&INK))
        .draw()
        .map_err(fault)?;
    let start = PathElement::new(vec![(0.0, began), (end, began)], BEGAN.stroke_width(1));
    chart.draw_series(std::iter::once(start)).map_err(fault)?;
    let points = panel.points.iter().map(|(at, value)| (minutes(*at), *value)).collect::<Vec<_>>();
    let line = PathElement::new(points, LINE.stroke_width(2));
    chart.draw_series(std::iter::once(line)).map_err(fault)?;
    Ok(())
}

fn fault(error: impl std::fmt::Display) -> String {
    error.to_string()
}
