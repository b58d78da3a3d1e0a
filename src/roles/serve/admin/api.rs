//! The admin listener: the status API. Apart from the public one, so that it can stay private.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{any, get};
use axum::{Json, Router};
use serde::Serialize;

use super::why;
use crate::catalog::{LARGE, Totals, Unit, UnitKey, UnitKind};
use crate::formats::status::{
    CacheStatus, CatalogStatus, DEDUP_PATH, DedupCount, DedupPair, DedupReport, FlawStatus, OffloadStatus,
    STATUS_PATH, SnapshotStatus, Status, TreesStatus, WHY_PATH,
};
use crate::io::clock;
use crate::roles::serve::http::traffic::Traffic;
use crate::roles::serve::metadata::refresh::Known;
use crate::roles::serve::metadata::repo::{Repo, Trouble, TroubleKind, UnitState};
use crate::roles::serve::state::Server;

/// Failing units of a repository that are shown because a client asked for them: any client may, for any name.
const MAX_ASKED: usize = 16;
/// To a volunteer, or `verify`.
const MISDIRECTED: &str = "this is the address of the server's status (its `admin`): give the one for clients and \
                           volunteers (its `listen`, by default port 8080)";

pub fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/", get(|| async { "manyhands: GET /api/v1/status, or run `manyhands status`\n" }))
        .route(STATUS_PATH, get(|State(server): State<Arc<Server>>| blocking(move || status(&server))))
        .route(DEDUP_PATH, get(|State(server): State<Arc<Server>>| blocking(move || dedup(&server))))
        .route(WHY_PATH, get(why::answer))
        .route("/_mh/{*rest}", any(|| async { (StatusCode::MISDIRECTED_REQUEST, MISDIRECTED) }))
        .with_state(server)
}

/// Answers from a thread that may block: counting millions of names takes a while.
async fn blocking<T: Serialize + Send + 'static>(
    answer: impl FnOnce() -> T + Send + 'static,
) -> Result<Json<T>, StatusCode> {
    let answered = tokio::task::spawn_blocking(answer).await;
    answered.map(Json).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

/// What repositories have in common.
fn dedup(server: &Server) -> DedupReport {
    let census = server.take_census();
    let count = |totals: &Totals| DedupCount {
        files: totals.files,
        bytes: totals.bytes,
        large_files: totals.large_files,
        large_bytes: totals.large_bytes,
    };
    let name = |index: usize| server.repos[index].config.name.clone();
    DedupReport {
        large_from_bytes: LARGE,
        paths: count(&census.paths),
        blobs: count(&census.blobs),
        repos: (0..).zip(&census.repos).map(|(index, totals)| (name(index), count(totals))).collect(),
        pairs: census
            .pairs
            .iter()
            .map(|pair| DedupPair {
                repos: [name(pair.repos.0), name(pair.repos.1)],
                identical: count(&pair.shared),
            })
            .collect(),
    }
}

fn status(server: &Server) -> Status {
    let now = clock::now();
    let (fetches, fetched) = server.packages.totals();
    let (blobs, bytes) = server.packages.store.totals();
    let (census, read) = (server.census(), server.trees.totals());
    let checked = [&server.packages, &server.metadata].map(|fetcher| fetcher.store.checked());
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_secs: now.since(server.started).as_secs(),
        snapshots: server.repos.iter().flat_map(snapshots).collect(),
        catalog: CatalogStatus {
            paths: census.paths.files,
            blobs: census.blobs.files,
            bytes: census.paths.bytes,
            blob_bytes: census.blobs.bytes,
            saved_bytes: census.paths.bytes.saturating_sub(census.blobs.bytes),
        },
        cache: CacheStatus {
            blobs,
            bytes,
            max_bytes: server.packages.store.max_bytes(),
            upstream_fetches: fetches,
            upstream_bytes: fetched,
            scrubbed_blobs: checked.iter().map(|(good, _)| good).sum(),
            bad_blobs: checked.iter().map(|(_, bad)| bad).sum(),
        },
        trees: TreesStatus { read_files: read.files, read_bytes: read.bytes },
        volunteers: server.fleet.status(now),
        offload: offload(&server.traffic),
        crowds: server.crowds.status(),
    }
}

fn snapshots(repo: &Repo) -> Vec<SnapshotStatus> {
    let snapshot = repo.snapshot();
    let keys = repo.shown_keys(MAX_ASKED);
    let all = keys.into_iter().filter_map(|key| {
        let state = repo.unit_state(&key);
        let unit = snapshot.unit(&key);
        // What a profile names and the origin does not have is no news.
        let is_trouble = |t: &Trouble| t.kind != TroubleKind::Missing || repo.is_named(&key);
        let is_shown = unit.is_some() || state.trouble.as_ref().is_some_and(is_trouble);
        is_shown.then(|| snapshot_status(repo, &key, unit, state))
    });
    all.collect()
}

fn snapshot_status(repo: &Repo, key: &UnitKey, unit: Option<&Arc<Unit>>, state: UnitState) -> SnapshotStatus {
    let kind = match key.kind {
        UnitKind::Suite => "suite",
        UnitKind::Flat => "flat",
        UnitKind::RpmMd => "rpm-md",
        UnitKind::Checksums => "checksums",
    };
    SnapshotStatus {
        repo: repo.config.name.clone(),
        unit: key.to_string(),
        kind: kind.to_owned(),
        generation: unit.map_or(0, |unit| unit.generation),
        date: unit.and_then(|unit| unit.date),
        valid_until: unit.and_then(|unit| unit.valid_until),
        adopted: unit.map(|unit| unit.adopted_secs),
        paths: unit.map_or(0, |unit| unit.packages.len() as u64),
        skipped: unit.map_or(0, |unit| unit.skipped),
        first_skipped: unit.and_then(|unit| unit.first_skipped.clone()),
        warnings: unit.map_or_else(Vec::new, |unit| unit.warnings.clone()),
        problem: state.trouble.map(|trouble| trouble.text),
        flaws: flaws(&state.flaws),
        waits_for_copies: state.gate.map(|(copies, _)| copies),
        waits_until: state.gate.map(|(_, until)| until.as_secs()),
    }
}

/// Files that the origin has wrong, with the reasons.
fn flaws(known: &BTreeMap<String, Known>) -> Vec<FlawStatus> {
    let one = |(member, known): (&String, &Known)| FlawStatus {
        member: member.clone(),
        reason: known.reason.clone(),
        since_unix_secs: known.since.as_secs(),
    };
    known.iter().map(one).collect()
}

fn offload(traffic: &Traffic) -> OffloadStatus {
    let (redirected, served) = (traffic.redirected_bytes.load(Relaxed), traffic.served_bytes.load(Relaxed));
    OffloadStatus {
        redirected_bytes: redirected,
        served_bytes: served,
        ratio: Traffic::offload_ratio(redirected, served),
        redirects: traffic.redirects.load(Relaxed),
        failovers: traffic.failovers.load(Relaxed),
        served_requests: traffic.served_requests.load(Relaxed),
        metadata_bytes: traffic.metadata_bytes.load(Relaxed),
        sync_bytes: traffic.sync_bytes.load(Relaxed),
        peer_bytes: traffic.peer_bytes.load(Relaxed),
        passed_bytes: traffic.passed_bytes.load(Relaxed),
        tunnel_bytes: traffic.tunnel_bytes.load(Relaxed),
    }
}
