//! One answer to GET and HEAD for a file of known identity: conditions, ranges, validators.
//!
//! Server and volunteers answer with this, so that a download may continue anywhere: equal ETag,
//! Last-Modified, size and range behaviour (RFC 9110 sections 8.8, 13, 14).

use std::ops::Range;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};

use super::body::Body;
use super::clock;
use crate::formats::byteranges::Framing;
use crate::formats::conditions::{self, Modified, Validators, Verdict};
use crate::formats::metalink;
use crate::formats::range::{self, Answer};
use crate::model::{Algorithm, Blob, BlobId, Digests};

/// RFC 3230; aria2 reads only this one.
const DIGEST: HeaderName = HeaderName::from_static("digest");
/// RFC 9530.
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// The end of the year 9999: the form of dates has four digits for the year.
const LAST_DATE: u64 = 253_402_300_799;

/// What is served, whole.
#[derive(Clone, Debug)]
pub struct Representation<'a> {
    /// Gives the entity tag: the SHA-256, or something that changes when the bytes do.
    pub validator: BlobId,
    pub size: u64,
    pub modified: Modified,
    pub file_name: &'a str,
    /// The SHA-256, where it is known.
    pub sha256: Option<BlobId>,
    /// All digests, where they are known.
    pub digests: Option<Digests>,
    /// Whether caches must ask again each time: true for what is replaced in place.
    pub must_revalidate: bool,
}

impl<'a> Representation<'a> {
    /// A package: everything but its name follows from its bytes, so that it is the same at every holder.
    pub fn of_blob(blob: Blob, file_name: &'a str, digests: Option<Digests>) -> Self {
        Self {
            validator: blob.id,
            size: blob.size,
            modified: Modified::of_blob(blob.id),
            file_name,
            sha256: Some(blob.id),
            digests,
            must_revalidate: false,
        }
    }

    /// A file whose bytes nobody hashed.
    pub fn unhashed(validator: BlobId, size: u64, file_name: &'a str) -> Self {
        let blob = Blob { id: validator, size };
        Self { sha256: None, ..Self::of_blob(blob, file_name, None) }
    }

    /// Metadata is replaced in place.
    pub fn of_metadata(blob: Blob, file_name: &'a str, modified: Modified) -> Self {
        Self { modified, must_revalidate: true, ..Self::of_blob(blob, file_name, None) }
    }

    /// With this `Last-Modified` in seconds since 1970, where the path has one of its own.
    pub fn dated(self, secs: Option<u64>) -> Self {
        let modified = secs.filter(|secs| *secs != self.modified.secs).map_or(self.modified, Modified::at);
        Self { modified, ..self }
    }
}

/// Whether the request depends on the file's validators.
pub fn has_conditions(request: &HeaderMap) -> bool {
    conditions::are_in(request)
}

/// 304 or 412, if the request's conditions call for that.
pub fn precondition(request: &HeaderMap, what: &Representation<'_>) -> Option<Response<Body>> {
    if !has_conditions(request) {
        return None;
    }
    let etag = what.validator.etag();
    let validators = Validators { etag: Some(&etag), modified: Some(what.modified) };
    let status = match conditions::verdict(request, validators, clock::now().as_secs()) {
        Verdict::Met => return None,
        Verdict::NotModified => StatusCode::NOT_MODIFIED,
        Verdict::Failed => StatusCode::PRECONDITION_FAILED,
    };
    let mut response = validated(what, &etag);
    *response.status_mut() = status;
    if status == StatusCode::PRECONDITION_FAILED {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    Some(response)
}

/// The headers that every answer about a file has.
fn validated(what: &Representation<'_>, etag: &str) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    set(headers, header::ETAG, etag);
    set(headers, header::LAST_MODIFIED, &http_date(what.modified.secs));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if what.must_revalidate {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    }
    response
}

/// Answers a GET or HEAD. `open` is called for each part of the file that is really sent, when its turn
/// comes; the body is [`Body::Empty`] if nothing is.
pub fn respond(
    method: &Method,
    request: &HeaderMap,
    what: &Representation<'_>,
    mut open: impl FnMut(Range<u64>) -> Body + Send + 'static,
) -> Response<Body> {
    if let Some(settled) = precondition(request, what) {
        return settled;
    }
    let size = what.size;
    let etag = what.validator.etag();
    let mut response = validated(what, &etag);
    let headers = response.headers_mut();
    let content_type = content_type(what.file_name);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(id) = what.sha256 {
        digest_headers(headers, id, what.digests.as_ref());
    }
    let validators = Validators { etag: Some(&etag), modified: Some(what.modified) };
    // Ranges are defined for GET alone (RFC 9110 section 14.2).
    let is_for_ranges = *method == Method::GET && conditions::range_applies(request, validators);
    let range_header = text(request, header::RANGE).filter(|_| is_for_ranges);
    let (status, length, plan) = plan(range::answer(range_header, size), &etag, content_type, size, headers);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    *response.status_mut() = status;
    if method != Method::HEAD && length > 0 {
        *response.body_mut() = match plan {
            Plan::One(part) => open(part),
            Plan::Several(parts, framing) => {
                let tail = Body::full(framing.tail());
                let framed = move |part: Range<u64>| [Body::full(framing.head(&part)), open(part)];
                Body::sequence(parts.into_iter().flat_map(framed).chain([tail]))
            }
        };
    }
    response
}

/// The parts of the file that go into the body.
enum Plan {
    One(Range<u64>),
    Several(Vec<Range<u64>>, Framing),
}

/// Status, length and plan of a body; sets the headers that follow from the range.
fn plan(
    answer: Answer,
    etag: &str,
    content_type: &'static str,
    size: u64,
    headers: &mut HeaderMap,
) -> (StatusCode, u64, Plan) {
    match answer {
        Answer::Whole => (StatusCode::OK, size, Plan::One(0..size)),
        Answer::Part(part) => {
            set(headers, header::CONTENT_RANGE, &format!("bytes {}-{}/{size}", part.start, part.end - 1));
            (StatusCode::PARTIAL_CONTENT, part.end - part.start, Plan::One(part))
        }
        Answer::Parts(parts) => {
            let framing = Framing::new(etag, content_type, size);
            set(headers, header::CONTENT_TYPE, &framing.content_type());
            (StatusCode::PARTIAL_CONTENT, framing.len(&parts), Plan::Several(parts, framing))
        }
        Answer::Unsatisfiable => {
            set(headers, header::CONTENT_RANGE, &format!("bytes */{size}"));
            (StatusCode::RANGE_NOT_SATISFIABLE, 0, Plan::One(0..0))
        }
    }
}

/// `Digest` and `Repr-Digest` of the whole file.
pub fn digest_headers(headers: &mut HeaderMap, id: BlobId, all: Option<&Digests>) {
    let base64 = |bytes: &[u8]| BASE64.encode(bytes);
    let sha256 = base64(&id.0);
    let (mut legacy, mut current) = (format!("SHA-256={sha256}"), format!("sha-256=:{sha256}:"));
    if let Some(digests) = all {
        use std::fmt::Write;
        let sha512 = base64(&digests.sha512);
        let (md5, sha1) = (base64(&digests.md5), base64(&digests.sha1));
        let _ = write!(legacy, ",SHA-512={sha512},SHA={sha1},MD5={md5}");
        let _ = write!(current, ", sha-512=:{sha512}:");
    }
    set(headers, DIGEST, &legacy);
    set(headers, REPR_DIGEST, &current);
}

/// The bytes of a body as announced; 0 if they are not.
pub fn content_length(response: &Response<Body>) -> u64 {
    text(response.headers(), header::CONTENT_LENGTH).and_then(|length| length.parse().ok()).unwrap_or(0)
}

/// The text of a manifest, as the `sha256sum` family writes and checks it.
pub fn manifest(digests: &Digests, algorithm: Algorithm, file_name: &str) -> String {
    format!("{}  {file_name}\n", digests.get(algorithm).to_hex())
}

/// A short text for people, with its status.
pub fn plain(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut text = text.into();
    text.push('\n');
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    *response.body_mut() = Body::full(text);
    response
}

/// 503 with the time after which to ask again (RFC 9110 section 10.2.3).
pub fn try_again(text: impl Into<String>, after_secs: u64) -> Response<Body> {
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, text);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after_secs));
    response
}

/// 302 with everything that clients need to follow it and caches to forget it.
pub fn redirect(location: &str) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::FOUND;
    let headers = response.headers_mut();
    set(headers, header::LOCATION, location);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Names another URL of the same file (RFC 6249 section 3).
pub fn duplicate(headers: &mut HeaderMap, url: &str) {
    if let Ok(value) = HeaderValue::from_str(&format!("<{url}>; rel=duplicate")) {
        headers.append(header::LINK, value);
    }
}

/// By the suffixes that archives use.
pub fn content_type(file_name: &str) -> &'static str {
    const TYPES: [(&str, &str); 16] = [
        (".deb", "application/vnd.debian.binary-package"),
        (".udeb", "application/vnd.debian.binary-package"),
        (".rpm", "application/x-rpm"),
        (".gz", "application/gzip"),
        (".xz", "application/x-xz"),
        (".zst", "application/zstd"),
        (".bz2", "application/x-bzip2"),
        (".xml", "application/xml"),
        (".iso", "application/x-iso9660-image"),
        (".metalink", metalink::V3),
        (".meta4", metalink::V4),
        (".mirrorlist", "text/plain; charset=utf-8"),
        (".html", "text/html; charset=utf-8"),
        (".txt", "text/plain; charset=utf-8"),
        (".asc", "text/plain; charset=utf-8"),
        ("Release", "text/plain; charset=utf-8"),
    ];
    let known = TYPES.iter().find(|(suffix, _)| file_name.ends_with(suffix));
    known.map_or("application/octet-stream", |(_, kind)| kind)
}

/// IMF-fixdate (RFC 9110 section 5.6.7).
fn http_date(secs: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(secs.min(LAST_DATE)))
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // All values here are ASCII that we made; a file name that is not was percent-encoded before.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;

    const BLOB: Blob = Blob { id: BlobId([9; 32]), size: 1000 };

    fn ask(headers: &[(HeaderName, &str)]) -> (u16, Option<String>, Option<Range<u64>>) {
        let mut request = HeaderMap::new();
        for (name, value) in headers {
            set(&mut request, name.clone(), value);
        }
        let (asked, sent) = sync_channel(1);
        let what = Representation::of_blob(BLOB, "a.deb", None);
        let response = respond(&Method::GET, &request, &what, move |part| {
            asked.send(part).expect("the test listens");
            Body::Empty
        });
        let range = text(response.headers(), header::CONTENT_RANGE).map(str::to_owned);
        (response.status().as_u16(), range, sent.try_recv().ok())
    }

    #[test]
    fn conditions_and_ranges() {
        let etag = BLOB.id.etag();
        let date = http_date(BLOB.id.last_modified_secs());
        let part = (206, Some("bytes 500-999/1000".to_owned()), Some(500..1000));
        let whole = (200, None, Some(0..1000));
        assert_eq!(ask(&[]), whole);
        assert_eq!(ask(&[(header::RANGE, "bytes=500-")]), part);
        assert_eq!(ask(&[(header::RANGE, "bytes=500-"), (header::IF_RANGE, &date)]), part);
        assert_eq!(ask(&[(header::RANGE, "bytes=500-"), (header::IF_RANGE, &etag)]), part);
        assert_eq!(ask(&[(header::RANGE, "bytes=500-"), (header::IF_RANGE, "\"other\"")]), whole);
        let other = "Sat, 01 Jan 2000 00:00:00 GMT";
        assert_eq!(ask(&[(header::RANGE, "bytes=500-"), (header::IF_RANGE, other)]), whole);
        assert_eq!(ask(&[(header::RANGE, "bytes=1000-")]), (416, Some("bytes */1000".to_owned()), None));
        assert_eq!(ask(&[(header::IF_MODIFIED_SINCE, &date)]), (304, None, None));
        assert_eq!(ask(&[(header::IF_MODIFIED_SINCE, other)]), whole);
        assert_eq!(ask(&[(header::IF_NONE_MATCH, &format!("\"x\", {etag}"))]), (304, None, None));
        assert_eq!(ask(&[(header::IF_NONE_MATCH, "\"x\""), (header::IF_MODIFIED_SINCE, &date)]), whole);
        assert_eq!(ask(&[(header::IF_MATCH, "\"x\"")]), (412, None, None));
        assert_eq!(ask(&[(header::IF_MATCH, &etag), (header::RANGE, "bytes=500-")]), part);
    }

    #[test]
    fn a_date_of_its_own_has_an_order() {
        let what = Representation::of_blob(BLOB, "a.deb", None);
        let own = what.clone().dated(Some(u64::MAX));
        assert_eq!(http_date(own.modified.secs), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(own.modified, Modified::at(u64::MAX));
        let default = BLOB.id.last_modified_secs();
        for secs in [None, Some(default)] {
            assert_eq!(what.clone().dated(secs).modified, Modified::of_blob(BLOB.id));
        }
    }

    /// Status, headers and bytes of an answer about a file of `size` bytes.
    fn ranged(range: &str, size: u64) -> (StatusCode, HeaderMap, Vec<u8>) {
        let mut request = HeaderMap::new();
        set(&mut request, header::RANGE, range);
        let what = Representation::of_blob(Blob { size, ..BLOB }, "a.deb", None);
        let response = respond(&Method::GET, &request, &what, |part| Body::full(file(part)));
        let (head, body) = response.into_parts();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let body = runtime.block_on(body.collect()).expect("bodies in memory cannot fail");
        (head.status, head.headers, body.to_bytes().to_vec())
    }

    fn file(part: Range<u64>) -> Vec<u8> {
        part.map(|at| (at % 251) as u8).collect()
    }

    #[test]
    fn several_ranges_are_sent_in_the_order_asked() {
        let (status, headers, body) = ranged("bytes=1200-1202, 5000-, 0-1", 2000);
        assert_eq!(status, StatusCode::PARTIAL_CONTENT);
        let boundary = "09".repeat(16);
        let kind = format!("multipart/byteranges; boundary={boundary}");
        assert_eq!(text(&headers, header::CONTENT_TYPE), Some(kind.as_str()));
        assert_eq!(text(&headers, header::CONTENT_RANGE), None);
        let head = |range: &str| {
            format!(
                "\r\n--{boundary}\r\nContent-Type: application/vnd.debian.binary-package\r\n\
                 Content-Range: bytes {range}/2000\r\n\r\n"
            )
        };
        let want = [
            head("1200-1202").into_bytes(),
            file(1200..1203),
            head("0-1").into_bytes(),
            file(0..2),
            format!("\r\n--{boundary}--\r\n").into_bytes(),
        ];
        assert!(body == want.concat(), "{}", String::from_utf8_lossy(&body));
    }

    #[test]
    fn no_digest_is_claimed_for_bytes_that_nobody_hashed() {
        let what = Representation::unhashed(BlobId([9; 32]), 1000, "a.rpm");
        let response = respond(&Method::GET, &HeaderMap::new(), &what, |_| Body::Empty);
        assert!(
            text(response.headers(), DIGEST).is_none() && text(response.headers(), REPR_DIGEST).is_none()
        );
        assert!(text(response.headers(), header::ETAG).is_some());
    }

    #[test]
    fn head_has_the_headers_and_no_body() {
        let response =
            respond(&Method::HEAD, &HeaderMap::new(), &Representation::of_blob(BLOB, "a.deb", None), |_| {
                unreachable!("no body is opened")
            });
        assert_eq!(text(response.headers(), header::CONTENT_LENGTH), Some("1000"));
        assert_eq!(
            text(response.headers(), header::CONTENT_TYPE),
            Some("application/vnd.debian.binary-package")
        );
        let digest = text(response.headers(), DIGEST).expect("digest");
        assert_eq!(digest, format!("SHA-256={}", BASE64.encode([9; 32])));
    }

    proptest! {
        #[test]
        fn the_length_is_that_of_the_body(
            ranges in proptest::collection::vec((0u64..20_000, 0u64..2000), 1..12), size in 0u64..20_000)
        {
            let set: Vec<_> = ranges.iter().map(|(at, len)| format!("{at}-{}", at + len)).collect();
            let (status, headers, body) = ranged(&format!("bytes={}", set.join(",")), size);
            let length = body.len().to_string();
            prop_assert_eq!(text(&headers, header::CONTENT_LENGTH), Some(length.as_str()));
            prop_assert!(body.len() as u64 <= size);
            if status == StatusCode::OK {
                prop_assert_eq!(body, file(0..size));
            }
        }
    }
}
