//! The report as one page of HTML: figures, plots and sweeps, without scripts or anything to load.

use std::fmt::Write as _;

use super::figures::{NAMES, meaning};
use super::plots::{Axes, Curve, curves, escaped, picture};
use super::report::{Report, Summary, Swept};
use super::table::number;

const STYLE: &str = "
:root { color-scheme: light dark; --text: #1d2328; --back: #fff; --grid: #d9dee3; --weak: #5b6670;
  --c0: #0b62c4; --c1: #8a939b; --c2: #c2461d; --c3: #b58a00; --c4: #8b3fb0; --c5: #16834a; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e3e8ec; --back: #14181b; --grid: #333b42; --weak: #98a4ae;
    --c0: #5aa9ff; --c1: #8a939b; --c2: #ff8a5c; --c3: #e6c14a; --c4: #cf93ee; --c5: #55cf8e; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.missed { color: var(--c2); font-weight: 600; } .weak { color: var(--weak); }
svg { width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: var(--weak); }
svg polyline, svg line { fill: none; stroke-width: 1.8; }
svg .grid { stroke: var(--grid); stroke-width: 1; }
svg .use { fill: var(--c0); }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); }
.c3 { stroke: var(--c3); } .c4 { stroke: var(--c4); } .c5 { stroke: var(--c5); }
.legend svg { width: 24px; height: 8px; } .legend span { margin-right: 1rem; white-space: nowrap; }
";

/// The whole page.
pub fn page(report: &Report) -> String {
    let title = escaped(&report.title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n"
    );
    let first = report.seeds.first().copied().unwrap_or_default();
    let _ = match report.seeds.len() {
        1 => writeln!(out, "<p>Seed {first}. Quote no figure from a single seed.</p>"),
        seeds => writeln!(
            out,
            "<p>{seeds} seeds from {first}: means and 95 % confidence intervals. Plots show seed {first}.</p>"
        ),
    };
    if let Some(manyhands) = report.balancers.first() {
        plots(&mut out, report, manyhands);
    }
    out.push_str("<h2>Figures</h2>\n");
    figures(&mut out, report);
    for swept in &report.sweeps {
        sweep(&mut out, swept);
    }
    if let Some(Summary { crowds, .. }) = report.balancers.first().filter(|first| !first.crowds.is_empty()) {
        let _ =
            writeln!(out, "<h2>Flash crowds</h2><pre class=\"wide\">{}</pre>", escaped(&crowds.join("\n")));
    }
    out + "</body></html>\n"
}

fn plots(out: &mut String, report: &Report, manyhands: &Summary) {
    let lines = &manyhands.curves;
    let over_time = |values: &[f64]| -> Vec<(f64, f64)> {
        values.iter().enumerate().map(|(bin, value)| ((bin as f64 + 0.5) * lines.bin, *value)).collect()
    };
    let curve = |name: &str, points| Curve { name: name.to_owned(), points };
    let seconds = lines.volunteers.len() as f64 * lines.bin;
    let rates = [
        curve("sent by volunteers", over_time(&lines.volunteers)),
        curve("by the server", over_time(&lines.server)),
        curve("copies to volunteers", over_time(&lines.copies)),
    ];
    let axes = |x, y| Axes { x, y, is_log_x: false, y_max: None };
    let _ = writeln!(out, "<h2>What is sent</h2>{}", curves(&axes("seconds", "bytes/s"), &rates));
    let absorbed = report.balancers.iter().map(|summary| {
        let lines = &summary.curves;
        let share = |(bin, (volunteers, server)): (usize, (&f64, &f64))| {
            ((bin as f64 + 0.5) * lines.bin, 100.0 * volunteers / (volunteers + server))
        };
        let points = lines.volunteers.iter().zip(&lines.server).enumerate().map(share).collect();
        curve(summary.balancer.name(), points)
    });
    let percent = Axes { y_max: Some(100.0), ..axes("seconds", "% of bytes") };
    let absorbed: Vec<Curve> = absorbed.collect();
    let _ = writeln!(out, "<h2>Absorbed by volunteers</h2>{}", curves(&percent, &absorbed));
    let _ = writeln!(
        out,
        "<h2>Load of the volunteers, the fastest at the top</h2>{}\
         <p class=\"weak\">The darker, the nearer to the volunteer's rate.</p>",
        picture(&lines.uses, seconds, "volunteers")
    );
    let times = report.balancers.iter().map(|summary| {
        let most = summary.distribution.len().saturating_sub(1).max(1) as f64;
        let point = |(index, time): (usize, &f64)| (*time, 100.0 * index as f64 / most);
        curve(summary.balancer.name(), summary.distribution.iter().enumerate().map(point).collect())
    });
    let times: Vec<Curve> = times.collect();
    let percent = Axes { is_log_x: true, y_max: Some(100.0), ..axes("seconds", "% of downloads") };
    let _ = writeln!(out, "<h2>Download times</h2>{}", curves(&percent, &times));
    let uses = report.balancers.iter().map(|summary| {
        let point = |(index, (_, used)): (usize, &(f64, f64))| (index as f64, 100.0 * used);
        curve(summary.balancer.name(), summary.volunteers.iter().enumerate().map(point).collect())
    });
    let uses: Vec<Curve> = uses.collect();
    let axes = axes("volunteers, the fastest first", "% of rate, whole run");
    let _ = writeln!(out, "<h2>Share of each volunteer</h2>{}", curves(&axes, &uses));
}

fn figures(out: &mut String, report: &Report) {
    out.push_str("<div class=\"wide\"><table><tr><th>figure</th>");
    for summary in &report.balancers {
        let _ = write!(out, "<th>{}</th>", summary.balancer.name());
    }
    out.push_str("<th>target</th></tr>\n");
    for name in report.names() {
        let _ = write!(out, "<tr><td title=\"{}\">{name}</td>", escaped(meaning(name)));
        for summary in &report.balancers {
            let _ = write!(out, "<td>{}</td>", number(summary.figures.get(name)));
        }
        let _ = match report.targets.get(name) {
            Some(target) if target.holds => write!(out, "<td>{}: holds</td></tr>", target.text()),
            Some(target) => write!(out, "<td class=\"missed\">{}: missed</td></tr>", target.text()),
            None => write!(out, "<td></td></tr>"),
        };
        out.push('\n');
    }
    out.push_str("</table></div><dl class=\"weak\">\n");
    for name in report.names() {
        let _ = writeln!(out, "<dt>{name}</dt><dd>{}</dd>", escaped(meaning(name)));
    }
    out.push_str("</dl>\n");
}

fn sweep(out: &mut String, swept: &Swept) {
    let _ = write!(out, "<h2>{}</h2><div class=\"wide\"><table><tr><th>value</th>", escaped(&swept.key));
    for name in NAMES {
        let _ = write!(out, "<th>{name}</th>");
    }
    out.push_str("</tr>\n");
    for (value, estimates) in &swept.rows {
        let _ = write!(out, "<tr><td>{}</td>", escaped(value));
        for name in NAMES {
            let _ = write!(out, "<td>{}</td>", number(estimates.get(name)));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div>\n");
}
