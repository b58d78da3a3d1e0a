//! What requests carry: targets, hosts, ranges, tickets, paths. No path leaves its tree, no range its file,
//! no ticket is accepted that was not signed.

use std::net::Ipv4Addr;
use std::sync::LazyLock;

use ::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header};
use manyhands::catalog::{UnitKey, by_hash_digest};
use manyhands::config::{Layout, Profiles, ServeConfig};
use manyhands::formats::access_log::Line;
use manyhands::formats::authority::Authority;
use manyhands::formats::byteranges::Framing;
use manyhands::formats::range::{self, Answer};
use manyhands::formats::ticket::{Key, Ticket};
use manyhands::model::{Blob, BlobId, Rate, RepoPath, Size, VolunteerId};
use manyhands::roles::serve::http::target::{Door, Target};

/// The value of a header, or a path, as a request carries it.
pub fn http(data: &[u8]) -> usize {
    let Ok(text) = std::str::from_utf8(data) else { return 0 };
    let read = [ranges(text), authority(text), ticket(text), quantities(text), path(text)];
    log_line(text);
    read.into_iter().filter(|read| *read).count()
}

fn ranges(text: &str) -> bool {
    let mut found = false;
    for size in [0, 1, 100, 5000, 1 << 40, u64::MAX] {
        assert!(range::requested_len(Some(text), size) <= size);
        let within = |part: &std::ops::Range<u64>| part.start < part.end && part.end <= size;
        match range::answer(Some(text), size) {
            Answer::Whole => continue,
            Answer::Unsatisfiable => {}
            Answer::Part(part) => assert!(within(&part), "{part:?} of {size}"),
            Answer::Parts(parts) => {
                assert!(parts.len() > 1 && parts.iter().all(within), "{parts:?} of {size}");
                let framing = Framing::new(&BlobId([7; 32]).etag(), "application/octet-stream", size);
                let framed = |part| framing.head(part).len() as u64 + (part.end - part.start);
                let sum = parts.iter().map(framed).sum::<u64>() + framing.tail().len() as u64;
                assert_eq!(framing.len(&parts), sum);
                assert!(sum <= size, "{sum} bytes for a file of {size}");
            }
        }
        found = true;
    }
    found
}

fn authority(text: &str) -> bool {
    let Some(authority) = Authority::parse(text) else { return false };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    assert!(authority.host.chars().all(plain) && authority.host == authority.host.to_ascii_lowercase());
    let shown = authority.to_string();
    let again = Authority::parse(&shown).unwrap_or_else(|| panic!("{shown:?} is refused"));
    assert_eq!((&again.host, again.port), (&authority.host, authority.port), "{shown:?}");
    true
}

/// Of one key only this ticket is known; no other may pass.
fn ticket(text: &str) -> bool {
    let (blob, expiry) = (Blob { id: BlobId([7; 32]), size: 4096 }, 1_800_000_000);
    let key = Key::new(&[1; 32]);
    let Some(ticket) = Ticket::parse(text) else { return false };
    let is_the_one = (ticket.blob, ticket.modified_secs, ticket.expiry) == (blob.id, None, expiry);
    assert!(is_the_one || !key.verifies(&ticket, blob.size), "{text:?} was never signed");
    assert!(!key.verifies(&ticket, blob.size + 1), "{text:?} has another size");
    let blob = Blob { id: ticket.blob, size: 5 };
    let own = key.sign_dated(blob, ticket.modified_secs, ticket.expiry, ticket.file_name);
    let read = Ticket::parse(&own).expect("its own form");
    assert!(key.verifies(&read, 5) && read.file_name == ticket.file_name);
    let date = |ticket: &Ticket<'_>| ticket.modified_secs.unwrap_or(ticket.blob.last_modified_secs());
    assert_eq!(date(&read), date(&ticket));
    true
}

fn quantities(text: &str) -> bool {
    if let Ok(size) = text.parse::<Size>() {
        assert_eq!(String::from(size).parse(), Ok(size));
    }
    if let Ok(rate) = text.parse::<Rate>() {
        assert_eq!(String::from(rate).parse(), Ok(rate));
    }
    if let Ok(id) = text.parse::<VolunteerId>() {
        assert_eq!(id.to_string(), text);
    }
    text.parse::<Rate>().is_ok()
}

static DEBIAN: LazyLock<Profiles> = LazyLock::new(|| Profiles::built_in().expect("built in"));

fn path(text: &str) -> bool {
    if let Ok(path) = RepoPath::new(text) {
        stays_inside(&path);
    }
    let Ok(path) = RepoPath::from_url(text) else { return false };
    stays_inside(&path);
    for name in ["generic-deb", "generic-rpm", "generic-files"] {
        let profile = DEBIAN.get(name).expect("built in");
        if let Some(key) = UnitKey::of_root(&path, profile) {
            assert!(path.as_str().starts_with(&key.dir) && key.dir.starts_with(key.package_base()));
        }
    }
    for layout in [Layout::Deb, Layout::RpmMd, Layout::Files] {
        let keys = UnitKey::candidates(&path, layout);
        assert!(keys.iter().all(|key| path.as_str().starts_with(&key.dir)), "{path}: {keys:?}");
        assert!(layout == Layout::RpmMd || keys.len() <= 3, "{path}: {keys:?}");
        UnitKey::of_suite(path.as_str(), layout);
    }
    if let Some(digest) = by_hash_digest(&path) {
        assert!(path.as_str().to_ascii_lowercase().ends_with(&digest.to_hex()));
    }
    true
}

fn stays_inside(path: &RepoPath) {
    let text = path.as_str();
    assert!((1..=4096).contains(&text.len()));
    assert!(text.split('/').all(|segment| !matches!(segment, "" | "." | "..")), "{text:?}");
    assert!(!text.contains(|c: char| c.is_ascii_control() || c == '\\'), "{text:?}");
    let url = path.to_url();
    assert!(url.is_ascii() && !url.contains(['?', '#', ' ']), "{url:?}");
    assert_eq!(RepoPath::from_url(&url).as_ref(), Ok(path), "{url:?}");
    assert_eq!(RepoPath::new(text).as_ref(), Ok(path));
    assert!(path.under("base").as_str().starts_with("base/"));
}

fn log_line(text: &str) {
    let mut line = String::new();
    Line {
        client: Ipv4Addr::LOCALHOST.into(),
        unix_secs: text.len() as u64,
        method: "GET",
        target: text,
        status: 200,
        bytes: u64::MAX,
        referer: None,
        user_agent: Some(text),
    }
    .write(&mut line);
    assert!(line.ends_with("\"\n") && !line.trim_end_matches('\n').contains(char::is_control), "{line:?}");
}

const CONFIG: &str = r#"
    [server]
    public_url = "http://mirror.example:8080"
    failover_zone = "v.mirror.example"
    failover_addresses = ["192.0.2.1"]
    [proxy]
    connect = ["secure.example:443", "*.wild.example:8443", "[2001:db8::7]:443"]
    [[repo]]
    name = "debian"
    distro = "generic-deb"
    upstream = ["https://deb.example/debian", "http://other.example:8000/pub/%7euser/debian/"]
    aliases = ["http://mirror.example:8080/old/debian"]
    [[repo]]
    name = "security"
    distro = "generic-deb"
    upstream = ["http://deb.example/debian/security"]
    [[repo]]
    name = "site"
    distro = "generic-rpm"
    tree = "/srv/site"
    aliases = ["http://whole.example", "http://[2001:DB8::1]:80/site"]
"#;

static DOOR: LazyLock<Door> = LazyLock::new(|| {
    let profiles = Profiles::built_in().expect("built in");
    Door::new(&ServeConfig::parse(CONFIG, &profiles).expect("valid"))
});

/// The lines of a request: method, target, then the value of each `Host`. A target that is no URI and a
/// value that is no header do not come so far.
pub fn door(data: &[u8]) -> usize {
    let mut lines = data.split(|&c| c == b'\n');
    let method = lines.next().and_then(|line| Method::from_bytes(line).ok());
    let target = lines.next().and_then(|line| Uri::try_from(line).ok());
    let (Some(method), Some(uri)) = (method, target) else { return 0 };
    let mut headers = HeaderMap::new();
    for host in lines.take(3).filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        headers.append(header::HOST, host);
    }
    let local = "192.0.2.1:3142".parse().expect("an address");
    for version in [Version::HTTP_10, Version::HTTP_11] {
        match DOOR.target(&method, &uri, version, &headers, local) {
            Target::Repo { index, rest, .. } => {
                assert!(index < 3 && !rest.starts_with('/') && uri.path().ends_with(rest), "{rest:?}");
                if let Ok(path) = RepoPath::from_url(rest) {
                    stays_inside(&path);
                }
            }
            Target::MirrorList { file } => assert!(uri.path().ends_with(file) && !file.starts_with('/')),
            Target::Blob { rest, .. } => assert!(uri.path().ends_with(rest)),
            Target::Connect { host, port } => {
                let listed = match port {
                    443 => matches!(host.as_str(), "secure.example" | "2001:db8::7"),
                    8443 => host.ends_with(".wild.example"),
                    _ => false,
                };
                assert!(listed && method == Method::CONNECT, "a tunnel to {host}:{port}");
            }
            Target::Refused { status, text } => {
                let known = [StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND];
                assert!(known.contains(&status) && !text.is_empty() && text.len() < 1000, "{text}");
                continue;
            }
            Target::Signed { .. } => assert!(uri.path().starts_with("/b/") && uri.scheme().is_none()),
            Target::Index | Target::Control => {}
        }
        return 1;
    }
    0
}
