//! `manyhands status`: asks the admin address of a server or a volunteer and shows the answer to people, or as JSON
//! to programs.

mod edge;

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use http::{HeaderMap, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::ConfigError;
use crate::formats::status::{
    CrowdStatus, DEDUP_PATH, DedupCount, DedupPair, DedupReport, STATUS_PATH, SnapshotStatus, Status,
    VolunteerStatus, WHY_PATH, Why,
};
use crate::io::clock;
use crate::io::config_file::{is_of_volunteer, read_serve_config, read_volunteer_options};
use crate::io::upstream::{Upstream, whole};
use crate::model::{EdgeStatus, Rate, Size, VolunteerId};

/// Largest report taken: ten thousand volunteers are 4 MB.
const MAX_REPORT: u64 = 64 << 20;
/// Where a server's is, unless its configuration says otherwise.
const DEFAULT_ADMIN: &str = "http://127.0.0.1:8081";
const WATCH_PERIOD: Duration = Duration::from_secs(2);

/// Which report, and in which form.
#[derive(Clone, Debug)]
pub struct Shown {
    pub report: Report,
    pub json: bool,
    pub watch: bool,
}

#[derive(Clone, Debug)]
pub enum Report {
    Status,
    /// What repositories have in common.
    Dedup,
    /// Where a request would go.
    Why {
        client: String,
        path: String,
        can_return: bool,
    },
}

/// What answers at an admin address. A volunteer's status has fields that a server's lacks.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Answer {
    Volunteer(Box<EdgeStatus>),
    Server(Box<Status>),
}

/// Where to ask: as the flag says, else as a configuration file does, else where a server's status is by default.
pub fn place(admin: Option<String>, config: Option<&Path>) -> anyhow::Result<String> {
    match (admin, config) {
        (Some(admin), _) => Ok(admin),
        (None, None) => Ok(DEFAULT_ADMIN.to_owned()),
        (None, Some(path)) if is_of_volunteer(path)? => {
            let admin = read_volunteer_options(path)?.admin_address()?;
            let admin = admin.ok_or_else(|| ConfigError::Value {
                key: path.display().to_string(),
                problem: "there is no admin address in it: write admin = \"127.0.0.1:8091\", and restart or reload \
                          the volunteer"
                    .to_owned(),
            })?;
            Ok(reachable(admin))
        }
        (None, Some(path)) => Ok(reachable(read_serve_config(path)?.admin)),
    }
}

/// What listens at every address does so at loopback.
fn reachable(admin: SocketAddr) -> String {
    match (admin.ip().is_unspecified(), admin.port()) {
        (false, _) => admin.to_string(),
        (true, port) if admin.is_ipv6() => format!("[::1]:{port}"),
        (true, port) => format!("127.0.0.1:{port}"),
    }
}

/// Prints a report once, or again and again.
pub async fn run(admin: &str, shown: &Shown) -> anyhow::Result<()> {
    let client = Upstream::new()?;
    loop {
        let text = match &shown.report {
            Report::Status => told::<Answer>(&client, admin, STATUS_PATH, shown, show_any).await?,
            Report::Dedup => told::<DedupReport>(&client, admin, DEDUP_PATH, shown, show_dedup).await?,
            Report::Why { client: address, path, can_return } => {
                address.parse::<IpAddr>().with_context(|| format!("{address:?} is not an IP address"))?;
                let path = utf8_percent_encode(path, NON_ALPHANUMERIC);
                let question = format!("{WHY_PATH}?client={address}&path={path}&can_return={can_return}");
                told::<Why>(&client, admin, &question, shown, show_why).await?
            }
        };
        let mut out = std::io::stdout().lock();
        if shown.watch && !shown.json && out.is_terminal() {
            // Clear the screen and go home (ECMA-48).
            out.write_all(b"\x1b[2J\x1b[H")?;
        }
        out.write_all(text.as_bytes())?;
        out.flush()?;
        drop(out);
        if !shown.watch {
            return Ok(());
        }
        tokio::time::sleep(WATCH_PERIOD).await;
    }
}

/// Requests a report and formats it as wanted.
async fn told<T: DeserializeOwned + Serialize>(
    client: &Upstream,
    admin: &str,
    path: &str,
    shown: &Shown,
    show: fn(&T) -> String,
) -> anyhow::Result<String> {
    // As other tools take it: HOST:PORT will do.
    let base = if admin.contains("://") { admin.to_owned() } else { format!("http://{admin}") };
    let url = format!("{}{path}", base.trim_end_matches('/'));
    let reply = client.probe(&url, HeaderMap::new()).await.with_context(|| {
        format!(
            "no status from {admin}: does it run, and is this its admin address? Of a volunteer, or of a server with \
             another one: --config FILE, or --admin HOST:PORT"
        )
    })?;
    let status = reply.status;
    let bytes = whole(reply, MAX_REPORT).await?;
    if status != StatusCode::OK {
        let reason = String::from_utf8_lossy(&bytes).trim().to_owned();
        // The port for package clients has no such page; of a question to the status, the answer says enough.
        let is_there = path.starts_with(WHY_PATH);
        anyhow::ensure!(is_there, "{admin} answers {status} ({reason}): is this the admin address?");
        anyhow::bail!("{reason}");
    }
    let report: T =
        serde_json::from_slice(&bytes).context("the answer is not a status: is this the admin address?")?;
    Ok(if shown.json { format!("{}\n", serde_json::to_string_pretty(&report)?) } else { show(&report) })
}

fn show_any(answer: &Answer) -> String {
    match answer {
        Answer::Volunteer(status) => edge::show(status),
        Answer::Server(status) => show(status),
    }
}

fn show_why(why: &Why) -> String {
    let mut text = format!(
        "/{}/{}  {}, sha256 {}\nfor {}, which {} when a volunteer fails: ",
        why.repo,
        why.path,
        Size(why.size),
        why.sha256,
        why.client,
        if why.can_return { "can turn elsewhere" } else { "cannot turn elsewhere" }
    );
    let first = why.holders.first().filter(|_| why.origin.is_none());
    // Writing to a String cannot fail.
    let _ = match (&why.origin, first) {
        (Some(reason), _) => writeln!(text, "served by the server: {reason}"),
        (None, Some(first)) => writeln!(text, "redirected, most likely to {}", first.id),
        (None, None) => writeln!(text, "served by the server"),
    };
    let width = why.holders.iter().map(|h| h.id.as_str().len()).max().unwrap_or(0).max(6);
    if !why.holders.is_empty() {
        let _ = writeln!(text, "\n{:<width$} STATE       {:>9} {:>14} RUNNING", "HOLDER", "COST", "CAPACITY");
    }
    for h in &why.holders {
        let (cost, rate) = (format!("{:.0} ms", h.cost_ms), Rate(h.rate).to_string());
        let mut notes: Vec<&str> = h.excluded.as_deref().filter(|e| *e != h.state).into_iter().collect();
        notes.extend(h.problem.as_deref());
        notes.extend(h.is_saturated.then_some("saturated"));
        notes.extend(h.is_arriving.then_some("fetching it"));
        notes.extend(h.is_slow.then_some("slower than the server"));
        notes.extend(Some(h.stability.as_str()).filter(|class| !matches!(*class, "" | "stable")));
        let _ = writeln!(
            text,
            "{:<width$} {:<11} {cost:>9} {rate:>14} {:>7}  {}",
            h.id.as_str(),
            h.state,
            h.in_flight,
            notes.join("; ")
        );
    }
    for asked in &why.asked_before {
        let sent_to: Vec<&str> = asked.sent_to.iter().map(VolunteerId::as_str).collect();
        let _ = writeln!(
            text,
            "\na program at {} asked {} s ago{}{}",
            why.client,
            asked.secs_ago,
            if sent_to.is_empty() { String::new() } else { format!(", sent to {}", sent_to.join(", then ")) },
            if asked.is_crowd { "; taken for many behind one address" } else { "" }
        );
    }
    text
}

fn show_dedup(report: &DedupReport) -> String {
    let DedupReport { paths, blobs, .. } = report;
    let large = Size(report.large_from_bytes);
    let saved = (paths.files - blobs.files, paths.bytes.saturating_sub(blobs.bytes));
    let saved_large = paths.large_files.saturating_sub(blobs.large_files);
    let mut text = format!(
        "{} paths, {} contents: {} files ({}) are identical to another, {:.1} % of all",
        paths.files,
        blobs.files,
        saved.0,
        Size(saved.1),
        percent(saved.0, paths.files),
    );
    // Writing to a String cannot fail.
    if paths.large_files > 0 {
        let _ = write!(text, " and {:.1} % of those from {large}", percent(saved_large, paths.large_files));
    }
    text.push('\n');
    let name = |names: &[&str]| names.join(" + ");
    let pairs = report.pairs.iter().map(|pair| (name(&[&pair.repos[0], &pair.repos[1]]), &pair.identical));
    let rows: Vec<(String, &DedupCount)> =
        report.repos.iter().map(|(repo, count)| (repo.clone(), count)).chain(pairs).collect();
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(11);
    let _ = writeln!(
        text,
        "\n{:<width$} {:>9} {:>12} {:>9} {:>12}  SHARE OF FILES",
        "CONTENTS OF", "FILES", "BYTES", "LARGE", "BYTES"
    );
    for (index, (name, count)) in rows.iter().enumerate() {
        let share = match index.checked_sub(report.repos.len()) {
            Some(pair) => shares(report, &report.pairs[pair]),
            None => String::new(),
        };
        let (bytes, large_bytes) = (Size(count.bytes).to_string(), Size(count.large_bytes).to_string());
        let _ = writeln!(
            text,
            "{name:<width$} {:>9} {bytes:>12} {:>9} {large_bytes:>12}{share}",
            count.files, count.large_files
        );
    }
    text
}

/// Which part of either repository's files a pair shares.
fn shares(report: &DedupReport, pair: &DedupPair) -> String {
    let of = |repo: &String| {
        let own = report.repos.iter().find(|(name, _)| name == repo).map_or(0, |(_, own)| own.files);
        format!("{:.1} % of {repo}", percent(pair.identical.files, own))
    };
    format!("  {}, {}", of(&pair.repos[0]), of(&pair.repos[1]))
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

fn show(status: &Status) -> String {
    let Status { catalog, cache, offload, .. } = status;
    let mut text = format!("manyhands {}, up {}\n", status.version, duration(status.uptime_secs));
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "catalog   {} paths, {} blobs; {} published as {} (one blob for several names saves {})",
        catalog.paths,
        catalog.blobs,
        Size(catalog.bytes),
        Size(catalog.blob_bytes),
        Size(catalog.saved_bytes)
    );
    let _ = writeln!(
        text,
        "cache     {} blobs, {} of {}; {} fetches from upstream, {}; {} blobs reread, {} bad ones removed",
        cache.blobs,
        Size(cache.bytes),
        Size(cache.max_bytes),
        cache.upstream_fetches,
        Size(cache.upstream_bytes),
        cache.scrubbed_blobs,
        cache.bad_blobs
    );
    let _ = writeln!(
        text,
        "offload   {:.1} %: {} redirected in {} requests, {} served here in {}; {} of metadata, {} to \
         volunteers, {} among them",
        100.0 * offload.ratio,
        Size(offload.redirected_bytes),
        offload.redirects,
        Size(offload.served_bytes),
        offload.served_requests,
        Size(offload.metadata_bytes),
        Size(offload.sync_bytes),
        Size(offload.peer_bytes)
    );
    crowds(&mut text, &status.crowds);
    snapshots(&mut text, &status.snapshots);
    volunteers(&mut text, &status.volunteers);
    text
}

fn crowds(text: &mut String, crowds: &[CrowdStatus]) {
    for crowd in crowds.iter().filter(|crowd| !crowd.is_over) {
        let fared = match (crowd.download_p50_bytes_per_sec, crowd.download_p90_bytes_per_sec) {
            (Some(p50), Some(p90)) => {
                format!(", half got {} or more, nine of ten {} or more", Rate(p50), Rate(p90))
            }
            _ => String::new(),
        };
        let _ = writeln!(
            text,
            "crowd     {} since {}: {:.1} requests/s (usually {:.2}), {:.1} % absorbed by {} volunteers, {} from \
             here{fared}",
            crowd.what,
            duration(clock::now().as_secs().saturating_sub(crowd.began_unix_secs)),
            crowd.requests_per_sec,
            crowd.usual_requests_per_sec,
            100.0 * crowd.ratio,
            crowd.volunteers,
            Size(crowd.origin_bytes)
        );
    }
}

fn snapshots(text: &mut String, snapshots: &[SnapshotStatus]) {
    let width = snapshots.iter().map(|s| s.repo.len() + s.unit.len() + 1).max().unwrap_or(0);
    let _ = writeln!(text, "\nSNAPSHOT{:1$} GEN    PATHS  DATE", "", width.saturating_sub(8));
    for s in snapshots {
        let name = format!("{}/{}", s.repo, s.unit);
        let date = s.date.or(s.adopted).map_or_else(|| "-".to_owned(), date);
        let waits = s.waits_for_copies.map(|copies| format!("the next one waits for {copies} copies"));
        let flaws = s.flaws.first().map(|first| match s.flaws.len() {
            1 => format!("without {}: {}", first.member, first.reason),
            count => format!("without {count} files, such as {}: {}", first.member, first.reason),
        });
        let notes = [s.problem.as_deref(), waits.as_deref(), flaws.as_deref()];
        let notes: Vec<&str> =
            notes.into_iter().flatten().chain(s.warnings.iter().map(String::as_str)).collect();
        let problem = if notes.is_empty() { String::new() } else { format!("  ({})", notes.join("; ")) };
        let _ = writeln!(text, "{name:<width$} {:>3} {:>8}  {date}{problem}", s.generation, s.paths);
    }
}

fn volunteers(text: &mut String, volunteers: &[VolunteerStatus]) {
    if volunteers.is_empty() {
        text.push_str("\nno volunteer has joined yet\n");
        return;
    }
    let id = volunteers.iter().map(|v| v.id.as_str().len()).max().unwrap_or(0).max(9);
    let address = volunteers.iter().map(|v| v.address.len()).max().unwrap_or(0).max(7);
    let _ = writeln!(
        text,
        "\n{:<id$} {:<address$} STATE       HOLDINGS ORDERS UPLOADS {:>14} {:>12} {:>12}",
        "VOLUNTEER", "ADDRESS", "CAPACITY", "REDIRECTED", "SERVED"
    );
    for v in volunteers {
        let _ = writeln!(
            text,
            "{:<id$} {:<address$} {:<11} {:>8} {:>6} {:>7} {:>14} {:>12} {:>12}{}",
            v.id.as_str(),
            v.address,
            v.state,
            v.holdings,
            v.orders,
            v.uploads,
            Rate(v.rate).to_string(),
            Size(v.redirected_bytes).to_string(),
            Size(v.served_bytes).to_string(),
            v.problem.as_deref().map(|p| format!("  ({p})")).unwrap_or_default()
        );
    }
}

fn date(secs: u64) -> String {
    let age = clock::now().as_secs().saturating_sub(secs);
    let when = jiff::Timestamp::from_second(i64::try_from(secs).unwrap_or(0)).unwrap_or_default();
    format!("{when} ({} ago)", duration(age))
}

fn duration(secs: u64) -> String {
    match secs {
        0..120 => format!("{secs} s"),
        120..7200 => format!("{} min", secs / 60),
        7200..172_800 => format!("{} h", secs / 3600),
        _ => format!("{} d", secs / 86_400),
    }
}
