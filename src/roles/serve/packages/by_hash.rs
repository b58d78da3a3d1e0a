//! Files asked for by their SHA-256: by volunteers that fetch, and by clients that volunteers send back.

use std::sync::Arc;

use http::{Response, StatusCode};

use super::{learnt, package};
use crate::formats::ticket;
use crate::io::body::Body;
use crate::io::respond::plain;
use crate::roles::serve::http::request::Asked;
use crate::roles::serve::http::traffic::Kind;
use crate::roles::serve::state::Server;

/// `_blob/<sha256>/<name>` or `_blob/<sha256>-<modified>/<name>`: by whatever path the catalog has for it, with
/// the date that a volunteer would give it under the same name.
pub async fn by_hash(server: &Arc<Server>, rest: &str, asked: &Asked) -> Response<Body> {
    let Some((id, modified_secs)) = rest.split('/').next().and_then(ticket::parse_blob) else {
        return plain(StatusCode::NOT_FOUND, "no such blob");
    };
    let modified_secs = Some(modified_secs.unwrap_or(id.last_modified_secs()));
    let asked = &Asked { modified_secs, ..asked.clone() };
    let mut answer = plain(StatusCode::NOT_FOUND, "no repository names this blob");
    for (repo, path, expected) in server.find(id) {
        // What is not yet visible is for volunteers that fetch on order.
        let is_visible = repo.snapshot().package(path.as_str()).is_some();
        let is_pending = asked.kind == Kind::Sync && !server.learnt.has(id, repo, &path);
        if !is_visible && !is_pending && !learnt::may_have(server, repo, &path, id).await {
            continue;
        }
        answer = package::answer_blob(server, repo, &path, expected, asked).await;
        // One repository's missing file or failing upstream is no reason: others publish the same bytes.
        if !(answer.status() == StatusCode::NOT_FOUND || answer.status().is_server_error()) {
            break;
        }
    }
    answer
}
