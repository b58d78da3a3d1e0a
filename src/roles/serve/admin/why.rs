//! Explains where a client's request goes: the policy's own view, without recording anything.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;

use crate::formats::status::{Why, WhyAsked, WhyHolder};
use crate::io::clock;
use crate::model::{Blob, RepoPath, Time, VolunteerId};
use crate::policy::{Asker, Candidate, Class, Request, Tries};
use crate::roles::serve::state::Server;
use crate::roles::serve::volunteers::fleet::Explained;

#[derive(Debug, Deserialize)]
pub struct Question {
    client: IpAddr,
    /// As in a URL of this server, with or without its host.
    path: String,
    #[serde(default)]
    can_return: bool,
}

type Refusal = (StatusCode, String);

/// Answers `?client=ADDRESS&path=/REPO/PATH`.
pub async fn answer(
    State(server): State<Arc<Server>>,
    Query(question): Query<Question>,
) -> Result<Json<Why>, Refusal> {
    let looking = tokio::task::spawn_blocking(move || look(&server, &question));
    let found = looking.await.map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    found.map(Json).map_err(|problem| (StatusCode::NOT_FOUND, problem))
}

fn look(server: &Server, question: &Question) -> Result<Why, String> {
    let path = match question.path.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None => question.path.trim_start_matches('/'),
    };
    let path = path.strip_prefix("direct/").or_else(|| path.strip_prefix("listed/")).unwrap_or(path);
    let (name, rest) = path.split_once('/').unwrap_or((path, ""));
    let known = || server.repos.iter().map(|repo| repo.config.name.as_str()).collect::<Vec<_>>().join(", ");
    let repo = server.repo(name).ok_or_else(|| format!("no repository {name:?}: there are {}", known()))?;
    let path = RepoPath::from_url(rest).map_err(|e| e.to_string())?;
    let expected = repo.snapshot().package(path.as_str()).ok_or_else(|| {
        format!(
            "{} is not a package in the current metadata of {name}: such files are served here",
            path.as_str()
        )
    })?;
    let unhashed = || "its bytes were never hashed here: it is served here until they are".to_owned();
    let id = server.packages.resolve(&expected).ok_or_else(unhashed)?;
    let size = expected.size.or_else(|| server.packages.store.size_of(id)).ok_or_else(unhashed)?;
    let request = Request {
        blob: Blob { id, size },
        len: size,
        origin_load: server.traffic.load(server.config.uplink),
        client: Asker::new(question.client.to_canonical(), ""),
        can_return: question.can_return,
        is_segment: false,
        is_sent_back: false,
    };
    let now = clock::now();
    let Explained { explanation, classes, asked_before } = server.fleet.explain(&request, now);
    Ok(Why {
        client: request.client.address,
        repo: name.to_owned(),
        path: path.as_str().to_owned(),
        sha256: id,
        size,
        can_return: question.can_return,
        origin: explanation.origin.map(|reason| reason.name().to_owned()),
        holders: explanation.candidates.iter().zip(classes).map(|(one, class)| holder(one, class)).collect(),
        asked_before: asked_before.into_iter().map(|(tries, names)| asked_one(tries, names, now)).collect(),
    })
}

fn asked_one(tries: Tries, sent_to: Vec<VolunteerId>, now: Time) -> WhyAsked {
    WhyAsked { sent_to, secs_ago: now.since(tries.at()).as_secs(), is_crowd: tries.is_crowd() }
}

fn holder(candidate: &Candidate, class: Class) -> WhyHolder {
    WhyHolder {
        stability: class.name().to_owned(),
        id: candidate.id.clone(),
        state: candidate.state.name().to_owned(),
        excluded: candidate.excluded.map(|excluded| excluded.name().to_owned()),
        problem: candidate.problem.clone(),
        is_saturated: candidate.rank.is_saturated,
        is_slow: candidate.rank.is_slow,
        is_arriving: candidate.is_arriving,
        cost_ms: candidate.rank.cost_micros as f64 / 1000.0,
        rate: candidate.rate as u64,
        in_flight: candidate.in_flight as u64,
    }
}
