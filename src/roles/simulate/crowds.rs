//! What the policy says of flash crowds, as lines for a report.

use crate::model::{Size, Time};
use crate::policy::{CrowdReport, Stage, Subject};

/// Lines kept: the first ones show how it began.
const MAX_LINES: usize = 1000;

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Crowds {
    lines: Vec<String>,
    left_out: usize,
}

impl Crowds {
    /// Keeps reports of crowds that began after clients were let in.
    pub fn take(&mut self, reports: &[CrowdReport], opened: Time) {
        for report in reports.iter().filter(|report| report.began >= opened) {
            if self.lines.len() < MAX_LINES {
                self.lines.push(line(report, opened));
            } else {
                self.left_out += 1;
            }
        }
    }

    pub fn lines(mut self) -> Vec<String> {
        if self.left_out > 0 {
            self.lines.push(format!("... and {} more", self.left_out));
        }
        self.lines
    }
}

fn line(report: &CrowdReport, opened: Time) -> String {
    let stage = match report.stage {
        Stage::Began => "begins",
        Stage::Goes => "goes on",
        Stage::Ended => "ends",
    };
    let subject = match &report.subject {
        Subject::Blob(blob) => format!("one file of {}", Size(blob.size)),
        Subject::Release(name) => format!("files of {name}"),
    };
    let bytes = report.redirected_bytes + report.origin_bytes;
    let absorbed = 100.0 * report.redirected_bytes as f64 / (bytes as f64).max(1.0);
    format!(
        "crowd {} on {subject} {stage}: began after {:.0} s, {} requests in {:.0} s, {:.1}/s (peak {:.1}, usual {:.2}), \
         {absorbed:.1} % of {} absorbed by {} volunteers, {} requests to come",
        report.number,
        report.began.since(opened).as_secs_f64(),
        report.requests,
        report.span.as_secs_f64(),
        report.rate,
        report.peak_rate,
        report.usual_rate,
        Size(bytes),
        report.volunteers,
        report.forecast,
    )
}
