//! Answers that several parts give.

use http::{Response, StatusCode, header};

use super::request::Asked;
use super::traffic::Kind;
use crate::formats::conditions::Modified;
use crate::io::body::Body;
use crate::io::clock;
use crate::io::fetch::FetchError;
use crate::io::respond::{self, Representation, plain};
use crate::io::upstream::UpstreamError;
use crate::roles::serve::metadata::repo::Repo;
use crate::roles::serve::state::Server;

/// This server as the client calls it.
pub fn own_url(server: &Server, asked: &Asked) -> String {
    let host = asked.header(header::HOST).map(|host| format!("http://{host}"));
    server.config.public_url.clone().or(host).unwrap_or_else(|| server.config.shown_url())
}

/// An API response's body as one of ours.
pub fn from_axum(body: axum::body::Body) -> Body {
    use futures_util::TryStreamExt;
    Body::stream(body.into_data_stream().map_err(std::io::Error::other))
}

/// 404 is for what does not exist, and for damage where [`Repo::status_of_damage`] says so; an outage is a 5xx that
/// clients may try again.
pub fn fetch_failed(repo: &Repo, error: &FetchError) -> Response<Body> {
    match error {
        FetchError::NotFound => plain(StatusCode::NOT_FOUND, "no upstream has this file"),
        FetchError::Upstream(UpstreamError::Busy { pause, .. }) => {
            respond::try_again("the upstream asks for a pause; try again", pause.as_secs() + 1)
        }
        FetchError::Upstream(_) => plain(StatusCode::BAD_GATEWAY, "the upstream failed; try again"),
        FetchError::Wrong { .. } => {
            plain(repo.status_of_damage(), "the upstream's file does not match its metadata")
        }
        FetchError::Late => {
            plain(StatusCode::SERVICE_UNAVAILABLE, "the upstream sends this file slowly; try again soon")
        }
        FetchError::Store(_) => {
            plain(StatusCode::SERVICE_UNAVAILABLE, "the server cannot fetch this file now; try again")
        }
    }
}

/// A text that was made for this answer, and may be another one next time.
pub fn made(server: &Server, asked: &Asked, file_name: &str, text: String) -> Response<Body> {
    let bytes = bytes::Bytes::from(text);
    let blob = crate::catalog::Root::new(bytes.clone()).blob;
    // A date of its bytes would go back and forth with them.
    let modified = Modified::at(clock::now().as_secs());
    let what = Representation::of_metadata(blob, file_name, modified);
    let response = respond::respond(&asked.method, &asked.headers, &what, Body::slices(bytes));
    response.map(|body| server.traffic.count(Kind::Metadata, body))
}
