//! The picture: time on a processor of a request, a panel for each scenario, each with its own scale.

use plotters::{
    backend::SVGBackend,
    drawing::{DrawingArea, IntoDrawingArea},
    element::{Rectangle, Text},
    style::{
        Color, IntoFont, RGBColor, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

use crate::report::Row;

const WIDTH: u32 = 960;
const COLUMNS: usize = 3;
const TITLE: i32 = 56;
const PANEL: i32 = 200;
const MARGIN: i32 = 16;
/// Of a panel: its title above, the names of servers below.
const ABOVE: i32 = 48;
const BELOW: i32 = 28;
const BAR_MAX: i32 = 64;

const INK: RGBColor = RGBColor(40, 44, 52);
const NGINX: RGBColor = RGBColor(150, 156, 166);
const OURS: [RGBColor; 4] =
    [RGBColor(38, 110, 190), RGBColor(226, 132, 38), RGBColor(60, 150, 90), RGBColor(140, 90, 170)];

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// The picture as SVG.
pub(crate) fn draw(rows: &[Row]) -> Result<String, String> {
    let panels = panels(rows);
    let lines = panels.len().div_ceil(COLUMNS);
    let height = TITLE + lines as i32 * PANEL;
    let mut text = String::new();
    {
        let backend = SVGBackend::with_string(&mut text, (WIDTH, height.cast_unsigned()));
        let area = backend.into_drawing_area();
        let fault = |error: String| format!("the picture: {error}");
        draw_all(&area, &panels).map_err(fault)?;
        area.present().map_err(|error| fault(error.to_string()))?;
    }
    Ok(text)
}

/// The rows of each scenario.
fn panels(rows: &[Row]) -> Vec<&[Row]> {
    rows.chunk_by(|one, next| one.scenario == next.scenario).collect()
}

fn draw_all(area: &Area<'_>, panels: &[&[Row]]) -> Result<(), String> {
    area.fill(&plotters::style::WHITE).map_err(|error| error.to_string())?;
    let title =
        "CPU µs of the server for one request (less is better; each panel has its own scale)";
    write(area, title, (MARGIN, MARGIN), 22, INK, HPos::Left)?;
    let mut servers: Vec<&str> = Vec::new();
    for row in panels.iter().copied().flatten().filter(|row| !row.is_nginx) {
        if !servers.contains(&row.server.as_str()) {
            servers.push(&row.server);
        }
    }
    let width = WIDTH as i32 / COLUMNS as i32;
    for (number, panel) in panels.iter().enumerate() {
        let column = (number % COLUMNS) as i32;
        let line = (number / COLUMNS) as i32;
        draw_panel(area, panel, &servers, (column * width, TITLE + line * PANEL), width)?;
    }
    Ok(())
}

fn draw_panel(
    area: &Area<'_>,
    rows: &[Row],
    servers: &[&str],
    (left, top): (i32, i32),
    width: i32,
) -> Result<(), String> {
    let name = rows.first().map_or("", |row| &row.scenario);
    write(area, name, (left + MARGIN, top), 18, INK, HPos::Left)?;
    let most = rows.iter().map(|row| row.cpu_us).fold(1e-9, f64::max);
    let bottom = top + PANEL - BELOW;
    let full = f64::from(PANEL - ABOVE - BELOW);
    let step = (width - 2 * MARGIN) / rows.len().max(1) as i32;
    let bar = (step * 2 / 3).min(BAR_MAX);
    for (number, row) in rows.iter().enumerate() {
        let middle = left + MARGIN + step * number as i32 + step / 2;
        let height = (row.cpu_us / most * full).round() as i32;
        let color = color(row, servers);
        let corners = [(middle - bar / 2, bottom - height), (middle + bar / 2, bottom)];
        let drawn = area.draw(&Rectangle::new(corners, color.filled()));
        drawn.map_err(|error| error.to_string())?;
        let ratio = row.to_nginx.filter(|_| !row.is_nginx).map(|to| to.cpu);
        let ratio = ratio.map_or_else(String::new, |ratio| format!(" ({ratio:.2} ×)"));
        let value = format!("{}{ratio}", number_of(row.cpu_us));
        write(area, &value, (middle, bottom - height - 16), 15, INK, HPos::Center)?;
        write(area, &row.server, (middle, bottom + 4), 14, INK, HPos::Center)?;
    }
    Ok(())
}

fn color(row: &Row, servers: &[&str]) -> RGBColor {
    let place = servers.iter().position(|name| *name == row.server);
    match place {
        Some(place) if !row.is_nginx => OURS[place % OURS.len()],
        _ => NGINX,
    }
}

fn number_of(us: f64) -> String {
    if us < 100.0 { format!("{us:.1}") } else { format!("{us:.0}") }
}

fn write(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    size: i32,
    color: RGBColor,
    side: HPos,
) -> Result<(), String> {
    let style = TextStyle::from(("sans-serif", size).into_font()).color(&color);
    let style = style.pos(Pos::new(side, VPos::Top));
    area.draw(&Text::new(text.to_owned(), at, style)).map_err(|error| error.to_string())
}
