//! The report as text, for terminals and documents.

use std::fmt::Write as _;

use super::figures::{NAMES, meaning};
use super::report::{Estimate, Report, Summary, Swept};

/// Figures that a sweep shows, besides those with a target.
const SWEPT: [&str; 8] =
    ["offload_bytes", "balance_p99", "jain", "makespan_ratio", "time_p50", "time_p99", "retries", "sync"];
/// Lines about crowds that are shown; all of them are in the JSON.
const CROWD_LINES: usize = 6;

/// The whole report.
pub fn text(report: &Report, is_verbose: bool) -> String {
    let mut out = format!("{}\n", report.title);
    let seeds = report.seeds.len();
    let first = report.seeds.first().copied().unwrap_or_default();
    if seeds > 1 {
        let _ = writeln!(out, "{seeds} seeds from {first}; mean and 95 % confidence interval");
    } else {
        let _ = writeln!(out, "seed {first}; quote no figure without --seeds 10");
    }
    out.push('\n');
    figures(&mut out, report);
    for swept in &report.sweeps {
        out.push('\n');
        sweep(&mut out, report, swept);
    }
    if let Some(manyhands) = report.balancers.first() {
        crowds(&mut out, manyhands, is_verbose);
    }
    out
}

fn figures(out: &mut String, report: &Report) {
    let mut rows = vec![vec!["figure".to_owned()]];
    rows[0].extend(report.balancers.iter().map(|summary| summary.balancer.name().to_owned()));
    rows[0].push("target".to_owned());
    for name in report.names() {
        let mut row = vec![name.to_owned()];
        row.extend(report.balancers.iter().map(|summary| number(summary.figures.get(name))));
        row.push(report.targets.get(name).map_or(String::new(), |target| {
            format!("{}: {}", target.text(), if target.holds { "holds" } else { "MISSED" })
        }));
        rows.push(row);
    }
    aligned(out, &rows);
    out.push('\n');
    for name in report.targets.keys() {
        let _ = writeln!(out, "{name}: {}", meaning(name));
    }
}

fn sweep(out: &mut String, report: &Report, swept: &Swept) {
    let shown: Vec<&str> = NAMES
        .iter()
        .copied()
        .filter(|name| SWEPT.contains(name) || report.targets.contains_key(*name))
        .collect();
    let mut rows = vec![vec![swept.key.clone()]];
    rows[0].extend(shown.iter().map(|name| (*name).to_owned()));
    for (value, estimates) in &swept.rows {
        let mut row = vec![value.clone()];
        row.extend(shown.iter().map(|name| number(estimates.get(name))));
        rows.push(row);
    }
    aligned(out, &rows);
}

fn crowds(out: &mut String, summary: &Summary, is_verbose: bool) {
    let shown = if is_verbose { usize::MAX } else { CROWD_LINES };
    if !summary.crowds.is_empty() {
        out.push('\n');
    }
    for line in summary.crowds.iter().take(shown) {
        let _ = writeln!(out, "{line}");
    }
    if summary.crowds.len() > shown {
        let _ = writeln!(out, "... {} more lines with --verbose", summary.crowds.len() - shown);
    }
}

/// Columns as wide as their contents; the first to the left, numbers to the right.
fn aligned(out: &mut String, rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(line, "{cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// Four digits that matter, and the interval where there is one.
pub fn number(estimate: Option<&Estimate>) -> String {
    let Some(Estimate { mean, ci95 }) = estimate.filter(|estimate| estimate.mean.is_finite()) else {
        return "-".to_owned();
    };
    let digits = match mean.abs() {
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 10.0 => 2,
        _ => 4,
    };
    if *ci95 > 0.0 { format!("{mean:.digits$} ±{ci95:.digits$}") } else { format!("{mean:.digits$}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_digits() {
        let text = |mean, ci95| number(Some(&Estimate { mean, ci95 }));
        assert_eq!(text(0.951_23, 0.001_2), "0.9512 ±0.0012");
        assert_eq!(text(12345.6, 0.0), "12346");
        assert_eq!((text(f64::NAN, 0.0).as_str(), number(None).as_str()), ("-", "-"));
    }

    #[test]
    fn columns_are_aligned() {
        let mut out = String::new();
        let rows = [vec!["a", "long"], vec!["bbb", "1"]];
        aligned(&mut out, &rows.map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()));
        assert_eq!(out, "a    long\nbbb     1\n");
    }
}
