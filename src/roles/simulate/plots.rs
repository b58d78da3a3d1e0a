//! Plots as inline SVG. Colours are CSS classes, so that the page's light and dark style both fit.

use std::fmt::Write as _;

/// Size of a plot and of its margins, in pixels.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 40.0;
/// Shades of a picture of uses.
const SHADES: usize = 10;
/// Of an axis at most.
const TICKS: usize = 8;

/// A curve with its name; the class `c0`, `c1`... is its place in the list.
#[derive(Clone, Debug)]
pub struct Curve {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// What the axes say.
#[derive(Clone, Copy, Debug)]
pub struct Axes<'a> {
    pub x: &'a str,
    pub y: &'a str,
    /// Equal steps are equal factors.
    pub is_log_x: bool,
    /// The top of the plot, if the data should not say it.
    pub y_max: Option<f64>,
}

/// Text escaped for HTML.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Curves over one pair of axes, with a legend.
pub fn curves(axes: &Axes<'_>, curves: &[Curve]) -> String {
    let scale_x = |x: f64| if axes.is_log_x { x.max(1e-3).log10() } else { x };
    let points =
        || curves.iter().flat_map(|curve| &curve.points).filter(|p| p.0.is_finite() && p.1.is_finite());
    let (low, high) = points().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), point| {
        (low.min(scale_x(point.0)), high.max(scale_x(point.0)))
    });
    if low > high {
        return "<p>Nothing was measured.</p>".to_owned();
    }
    let high = if high > low { high } else { low + 1.0 };
    let top = axes.y_max.unwrap_or_else(|| points().map(|point| point.1).fold(0.0, f64::max)).max(1e-9);
    let x_of = |x: f64| LEFT + (scale_x(x) - low) / (high - low) * (WIDTH - LEFT - RIGHT);
    let y_of = |y: f64| HEIGHT - BOTTOM - (y / top).clamp(0.0, 1.05) * (HEIGHT - TOP - BOTTOM);
    let mut svg = begin();
    let x_ticks = if axes.is_log_x { log_ticks(low, high) } else { ticks(low, high) };
    x_ticks.into_iter().for_each(|x| x_tick(&mut svg, x_of(x), x));
    ticks(0.0, top).into_iter().for_each(|y| y_tick(&mut svg, y_of(y), y));
    labels(&mut svg, axes);
    for (number, curve) in curves.iter().enumerate() {
        let _ = write!(svg, "<polyline class=\"c{number}\" points=\"");
        for (x, y) in curve.points.iter().filter(|p| p.0.is_finite() && p.1.is_finite()) {
            let _ = write!(svg, "{:.1},{:.1} ", x_of(*x), y_of(*y));
        }
        svg.push_str("\"/>");
    }
    svg.push_str("</svg>");
    svg + &legend(curves)
}

/// Rows of values from 0 to 1 over time: the darker the more. The first row is at the top.
pub fn picture(rows: &[Vec<f64>], seconds: f64, y_label: &str) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    if columns == 0 {
        return "<p>There are no volunteers.</p>".to_owned();
    }
    let width = (WIDTH - LEFT - RIGHT) / columns as f64;
    let height = (HEIGHT - TOP - BOTTOM) / rows.len() as f64;
    let mut shades = vec![String::new(); SHADES + 1];
    for (number, row) in rows.iter().enumerate() {
        let y = TOP + number as f64 * height;
        let mut column = 0;
        while column < row.len() {
            let shade = shade(row[column]);
            let run = row[column..].iter().take_while(|use_| self::shade(**use_) == shade).count();
            let (x, wide) = (LEFT + column as f64 * width, run as f64 * width);
            let _ = write!(shades[shade], "M{x:.1} {y:.1}h{wide:.1}v{height:.1}h-{wide:.1}z");
            column += run;
        }
    }
    let mut svg = begin();
    for (shade, path) in shades.iter().enumerate().filter(|(shade, path)| *shade > 0 && !path.is_empty()) {
        let opacity = shade as f64 / SHADES as f64;
        let _ = write!(svg, "<path class=\"use\" fill-opacity=\"{opacity:.1}\" d=\"{path}\"/>");
    }
    for x in ticks(0.0, seconds) {
        x_tick(&mut svg, LEFT + x / seconds * (WIDTH - LEFT - RIGHT), x);
    }
    labels(&mut svg, &Axes { x: "seconds", y: y_label, is_log_x: false, y_max: None });
    svg + "</svg>"
}

/// Round numbers from `low` to `high`, at equal steps.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    if high <= low {
        return vec![low];
    }
    let least = (high - low) / TICKS as f64;
    let decade = 10_f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|part| part * decade).into_iter().find(|step| *step >= least);
    let step = step.unwrap_or(least);
    let (first, last) = ((low / step).ceil() as i64, (high / step + 1e-9).floor() as i64);
    (first..=last).map(|number| number as f64 * step).collect()
}

/// Round numbers whose logarithms to base 10 are from `low` to `high`.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let decades = low.floor() as i32..=high.ceil() as i32;
    let all = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|part| part * 10_f64.powi(decade)));
    let within: Vec<f64> = all.filter(|x| (low - 1e-9..=high + 1e-9).contains(&x.log10())).collect();
    let apart = within.len().div_ceil(TICKS).max(1);
    within.into_iter().step_by(apart).collect()
}

fn shade(used: f64) -> usize {
    (used.clamp(0.0, 1.0) * SHADES as f64).round() as usize
}

fn begin() -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">")
}

fn x_tick(svg: &mut String, x: f64, value: f64) {
    let (bottom, text) = (HEIGHT - BOTTOM, HEIGHT - BOTTOM + 15.0);
    let _ = write!(
        svg,
        "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
         <text x=\"{x:.1}\" y=\"{text}\" text-anchor=\"middle\">{}</text>",
        short(value)
    );
}

fn y_tick(svg: &mut String, y: f64, value: f64) {
    let (right, text) = (WIDTH - RIGHT, LEFT - 6.0);
    let _ = write!(
        svg,
        "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
         <text x=\"{text}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
        y + 4.0,
        short(value)
    );
}

fn labels(svg: &mut String, axes: &Axes<'_>) {
    let (middle_x, bottom) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 6.0);
    let middle_y = (TOP + HEIGHT - BOTTOM) / 2.0;
    let _ = write!(
        svg,
        "<text x=\"{middle_x}\" y=\"{bottom}\" text-anchor=\"middle\">{}</text>\
         <text transform=\"translate(14 {middle_y}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        escaped(axes.x),
        escaped(axes.y)
    );
}

fn legend(curves: &[Curve]) -> String {
    let mut out = String::from("<p class=\"legend\">");
    for (number, curve) in curves.iter().enumerate() {
        let _ = write!(
            out,
            "<span><svg viewBox=\"0 0 24 8\"><line class=\"c{number}\" x1=\"0\" x2=\"24\" y1=\"4\" y2=\"4\"/></svg> {}</span> ",
            escaped(&curve.name)
        );
    }
    out + "</p>"
}

/// A number with the prefix that keeps it short.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1e9 => {
            format!("{:.3}", value / 1e9).trim_end_matches('0').trim_end_matches('.').to_owned() + " G"
        }
        size if size >= 1e6 => {
            format!("{:.2}", value / 1e6).trim_end_matches('0').trim_end_matches('.').to_owned() + " M"
        }
        size if size >= 1e3 => {
            format!("{:.2}", value / 1e3).trim_end_matches('0').trim_end_matches('.').to_owned() + " k"
        }
        size if size >= 10.0 => format!("{value:.0}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_and_pictures_are_drawn_within_the_frame() {
        let axes = Axes { x: "s & more", y: "B/s", is_log_x: true, y_max: None };
        let curve = Curve { name: "a<b".to_owned(), points: vec![(1.0, 0.0), (100.0, 2e6), (f64::NAN, 1.0)] };
        let svg = curves(&axes, &[curve]);
        assert!(svg.contains("points=\"64.0,240.0 692.0,14.0 \""), "{svg}");
        assert!(svg.contains("s &amp; more") && svg.contains("a&lt;b") && svg.contains("2 M"), "{svg}");
        assert_eq!(svg.matches("<svg").count(), svg.matches("</svg>").count());
        let svg = picture(&[vec![0.5, 0.5, 1.0], vec![0.0, 0.0, 0.0]], 30.0, "volunteers");
        // Equal neighbours are one rectangle, and nothing is none.
        assert_eq!((svg.matches('M').count(), svg.matches("class=\"use\"").count()), (2, 2), "{svg}");
        assert!(curves(&axes, &[]).contains("Nothing"));
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(28.0, 1210.0), [200.0, 400.0, 600.0, 800.0, 1000.0, 1200.0]);
        assert_eq!(ticks(0.0, 53.3e6), (0..6).map(|n| f64::from(n) * 1e7).collect::<Vec<_>>());
        assert_eq!((ticks(0.0, 1e-9).len(), ticks(5.0, 5.0)), (6, vec![5.0]));
        assert_eq!(log_ticks(-0.9, 0.5), [0.2, 0.5, 1.0, 2.0]);
        assert!(log_ticks(-3.0, 9.0).len() <= TICKS);
    }

    #[test]
    fn short_numbers() {
        assert_eq!(
            [0.0, 0.25, 12.4, 1500.0, 2e6, 3.5e9].map(short),
            ["0", "0.25", "12", "1.5 k", "2 M", "3.5 G"]
        );
    }
}
