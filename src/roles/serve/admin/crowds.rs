//! Flash crowds as operations see them: a line in the log when one begins, one every ten seconds, one at its end;
//! and the status of those that run and of the last ones. When that is, and what they are, the policy says.

use std::sync::Arc;
use std::time::Duration;

use crate::formats::status::CrowdStatus;
use crate::io::clock;
use crate::model::{Rate, Size, VolunteerId};
use crate::policy::{CrowdReport, Serving, Stage, Subject};
use crate::roles::serve::http::traffic::Traffic;
use crate::roles::serve::state::Server;

/// How often the policy is asked.
const EVERY: Duration = Duration::from_secs(1);

/// Asks the policy and logs the result; ends with the process.
pub async fn keep(server: Arc<Server>) {
    let mut tick = tokio::time::interval(EVERY);
    loop {
        tick.tick().await;
        let (load, now) = (server.traffic.load(server.config.uplink), clock::now());
        let (running, ended) = server.downloads.take();
        let reports = server.fleet.measured(Serving { load, running, ended }, now);
        for report in reports {
            let slowest = report.slowest.map(|(node, rate)| (server.fleet.id_of(node), Rate(rate as u64)));
            let status = status(&report, what(&server, &report.subject));
            tell(&status, report.stage, slowest);
            server.crowds.note(status);
        }
    }
}

/// What a crowd wants, for people.
fn what(server: &Server, subject: &Subject) -> String {
    match subject {
        Subject::Release(name) => name.to_string(),
        Subject::Blob(blob) => match server.find(blob.id).first() {
            Some((repo, path, _)) => format!("{}/{path}", repo.config.name),
            None => blob.id.to_string(),
        },
    }
}

fn status(report: &CrowdReport, what: String) -> CrowdStatus {
    CrowdStatus {
        number: report.number,
        what,
        is_over: report.stage == Stage::Ended,
        began_unix_secs: report.began.as_secs(),
        span_secs: report.span.as_secs_f64(),
        requests: report.requests,
        requests_per_sec: report.rate,
        peak_requests_per_sec: report.peak_rate,
        usual_requests_per_sec: report.usual_rate,
        forecast_requests: report.forecast,
        redirected_bytes: report.redirected_bytes,
        origin_bytes: report.origin_bytes,
        ratio: Traffic::offload_ratio(report.redirected_bytes, report.origin_bytes),
        downloads_running: report.in_flight.into(),
        download_p50_bytes_per_sec: report.rate_p50,
        download_p90_bytes_per_sec: report.rate_p90,
        volunteers: report.volunteers as u64,
    }
}

fn tell(crowd: &CrowdStatus, stage: Stage, slowest: Option<(VolunteerId, Rate)>) {
    let CrowdStatus { number, what, requests, volunteers, .. } = crowd;
    let rate = |of: f64| tracing::field::display(format!("{of:.2}"));
    // Of nothing there is no part.
    let is_any = crowd.redirected_bytes > 0 || crowd.origin_bytes > 0;
    let (p50, p90) = (fared(crowd.download_p50_bytes_per_sec), fared(crowd.download_p90_bytes_per_sec));
    let absorbed = is_any.then(|| tracing::field::display(format!("{:.1}", 100.0 * crowd.ratio)));
    match stage {
        Stage::Began => tracing::info!(
            crowd = number,
            what,
            requests_per_sec = rate(crowd.requests_per_sec),
            usual_per_sec = rate(crowd.usual_requests_per_sec),
            forecast_requests = crowd.forecast_requests,
            "a flash crowd begins"
        ),
        Stage::Goes => tracing::info!(
            crowd = number,
            what,
            requests,
            requests_per_sec = rate(crowd.requests_per_sec),
            absorbed_percent = absorbed,
            redirected = %Size(crowd.redirected_bytes),
            served_per_sec = %Rate((crowd.origin_bytes as f64 / crowd.span_secs.max(0.001)) as u64),
            downloads = crowd.downloads_running,
            download_p50 = p50,
            download_p90 = p90,
            volunteers,
            slowest = slowest.as_ref().map(|(id, _)| tracing::field::display(id)),
            slowest_share = slowest.as_ref().map(|(_, rate)| tracing::field::display(rate)),
            "a flash crowd continues"
        ),
        Stage::Ended => tracing::info!(
            crowd = number,
            what,
            duration_secs = rate(crowd.span_secs),
            requests,
            peak_per_sec = rate(crowd.peak_requests_per_sec),
            absorbed_percent = absorbed,
            redirected = %Size(crowd.redirected_bytes),
            served = %Size(crowd.origin_bytes),
            alone = %Size(crowd.redirected_bytes.saturating_add(crowd.origin_bytes)),
            download_p50 = p50,
            download_p90 = p90,
            volunteers,
            "a flash crowd has ended"
        ),
    }
}

fn fared(rate: Option<u64>) -> Option<impl tracing::Value> {
    rate.map(|rate| tracing::field::display(Rate(rate)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_the_server_was_spared() {
        let report = CrowdReport {
            number: 1,
            subject: Subject::Release("debian dists/stable".into()),
            stage: Stage::Ended,
            began: crate::model::Time::from_secs(1000),
            span: Duration::from_secs(20),
            requests: 100,
            rate: 5.0,
            peak_rate: 9.0,
            usual_rate: 0.1,
            forecast: 0,
            redirected_bytes: 900,
            origin_bytes: 100,
            in_flight: 0,
            rate_p50: None,
            rate_p90: None,
            volunteers: 3,
            slowest: None,
        };
        let status = status(&report, "debian dists/stable".to_owned());
        assert!(status.is_over && status.ratio == 0.9 && status.span_secs == 20.0);
    }
}
