//! The conditions of RFC 9110 section 13 at every kind of file that is served, and beside the same file from
//! nginx.

mod support;

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use support::{
    DEADLINE, DebRepo, Nginx, Response, Scratch, Server, ServerConfig, Volunteer, get, random_bytes, request,
    wait_for,
};

const EPOCH: &str = "Thu, 01 Jan 1970 00:00:00 GMT";
const FUTURE: &str = "Fri, 01 Jan 2100 00:00:00 GMT";

/// A method, headers, and the status that RFC 9110 gives them. `TAG`, `DATE`, `RFC850` and `ASCTIME` stand for
/// the validators of the file.
type Row = (&'static str, &'static [(&'static str, &'static str)], u16);

const TABLE: &[Row] = &[
    ("GET", &[("If-Match", "TAG")], 200),
    ("GET", &[("If-Match", "*")], 200),
    ("GET", &[("If-Match", "\"x\", TAG")], 200),
    ("GET", &[("If-Match", "\"x\"")], 412),
    ("GET", &[("If-Match", "W/TAG")], 412),
    ("GET", &[("If-Match", "\"x\""), ("Range", "bytes=0-9")], 412),
    ("HEAD", &[("If-Match", "\"x\"")], 412),
    ("GET", &[("If-Unmodified-Since", EPOCH)], 412),
    ("HEAD", &[("If-Unmodified-Since", EPOCH)], 412),
    ("GET", &[("If-Unmodified-Since", "DATE")], 200),
    ("GET", &[("If-Unmodified-Since", "RFC850")], 200),
    ("GET", &[("If-Unmodified-Since", "ASCTIME")], 200),
    ("GET", &[("If-Unmodified-Since", FUTURE)], 200),
    ("GET", &[("If-None-Match", "TAG")], 304),
    ("GET", &[("If-None-Match", "*")], 304),
    ("GET", &[("If-None-Match", "W/TAG")], 304),
    ("GET", &[("If-None-Match", "\"a\"")], 200),
    ("HEAD", &[("If-None-Match", "TAG")], 304),
    ("GET", &[("If-None-Match", "TAG"), ("Range", "bytes=0-9")], 304),
    ("GET", &[("If-Modified-Since", "DATE")], 304),
    ("GET", &[("If-Modified-Since", "RFC850")], 304),
    ("GET", &[("If-Modified-Since", "ASCTIME")], 304),
    ("GET", &[("If-Modified-Since", EPOCH)], 200),
    ("GET", &[("If-Modified-Since", "yesterday")], 200),
    ("GET", &[("If-None-Match", "\"a\""), ("If-Modified-Since", "DATE")], 200),
    ("GET", &[("If-Match", "\"x\""), ("If-None-Match", "TAG")], 412),
    ("GET", &[("If-Unmodified-Since", EPOCH), ("If-None-Match", "TAG")], 412),
    ("GET", &[("Range", "bytes=0-9"), ("If-Range", "TAG")], 206),
    ("GET", &[("Range", "bytes=0-9"), ("If-Range", "DATE")], 206),
    ("GET", &[("Range", "bytes=0-9"), ("If-Range", "RFC850")], 206),
    ("GET", &[("Range", "bytes=0-9"), ("If-Range", "ASCTIME")], 206),
    ("GET", &[("Range", "bytes=0-9"), ("If-Range", "\"x\"")], 200),
    ("GET", &[("Range", "bytes=0-9"), ("If-Range", "W/TAG")], 200),
    ("GET", &[("Range", "bytes=0-9"), ("If-Range", EPOCH)], 200),
    ("GET", &[("Range", "bytes=9999999-"), ("If-Range", "TAG")], 416),
];

/// Where nginx does not go by the RFC: it takes a field in two lines for an error, judges `If-Unmodified-Since` in
/// spite of an `If-Match`, and answers HEAD with 206.
const NOT_OF_NGINX: &[Row] = &[
    ("GET", &[("If-Match", "\"x\""), ("If-Match", "TAG")], 200),
    ("GET", &[("If-None-Match", "\"a\""), ("If-None-Match", "TAG")], 304),
    ("GET", &[("If-Match", "TAG"), ("If-Unmodified-Since", EPOCH)], 200),
    ("GET", &[("If-Unmodified-Since", "yesterday")], 200),
    ("HEAD", &[("Range", "bytes=0-9")], 200),
    ("HEAD", &[("Range", "bytes=9999999-")], 200),
    ("GET", &[("If-Match", "TAG"), ("If-None-Match", "TAG")], 304),
];

/// The two obsolete forms of an HTTP date.
fn forms(date: &str) -> (String, String) {
    let words: Vec<&str> = date.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let [weekday, day, month, year, time, "GMT"] = words[..] else { panic!("{date} is no IMF-fixdate") };
    let full = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    let full = full.iter().find(|name| name.starts_with(weekday)).expect("a weekday");
    let day_of_month = day.trim_start_matches('0');
    (
        format!("{full}, {day}-{month}-{} {time} GMT", &year[2..]),
        format!("{weekday} {month} {day_of_month:>2} {time} {year}"),
    )
}

/// Asks with a row's headers, given the whole file as it is served without conditions.
fn ask(url: &str, whole: &Response, (method, headers, _): &Row) -> Response {
    let (tag, date) = (whole.must("etag"), whole.must("last-modified"));
    let (rfc_850, asctime) = forms(date);
    let fill = |value: &str| match value {
        "DATE" => date.to_owned(),
        "RFC850" => rfc_850.clone(),
        "ASCTIME" => asctime.clone(),
        value => value.replace("TAG", tag),
    };
    let filled: Vec<(&str, String)> = headers.iter().map(|(name, value)| (*name, fill(value))).collect();
    let borrowed: Vec<(&str, &str)> = filled.iter().map(|(name, value)| (*name, value.as_str())).collect();
    request(method, url, &borrowed)
}

fn check(place: &str, url: &str, rows: &[Row]) {
    let whole = get(url).expect(200);
    for row in rows {
        let (method, headers, status) = row;
        let answer = ask(url, &whole, row);
        let what = format!("{method} {headers:?} of {place}");
        assert_eq!(answer.status, *status, "{what}: {:?}", answer.headers);
        let body = match (*method, *status) {
            ("GET", 200) => &whole.body[..],
            ("GET", 206) => &whole.body[..10],
            _ => &[],
        };
        // An error may have a text.
        assert!(answer.body == body || matches!(status, 412 | 416), "{what}");
        if *status < 400 {
            for name in ["etag", "last-modified"] {
                assert_eq!(answer.must(name), whole.must(name), "{name}: {what}");
            }
        }
    }
}

/// The same file from the tree and from an upstream, an unnamed one in each, and nginx over the tree.
struct World {
    nginx: Nginx,
    server: Server,
    _volunteers: Vec<Volunteer>,
    /// `flat/FILE` is redirected, `up/FILE` is not.
    file: String,
}

fn start(scratch: &Scratch) -> World {
    let mut repo = DebRepo::new(&scratch.path("repo"));
    let file = repo.add("p", &random_bytes(1, 40_000));
    repo.publish();
    fs::write(repo.root.join("README"), random_bytes(2, 3000)).expect("the scratch folder is writable");
    for name in [&file, "README"] {
        let then = UNIX_EPOCH + Duration::from_secs(1_575_130_718);
        let opened = fs::File::options().write(true).open(repo.root.join(name)).expect("written");
        opened.set_modified(then).expect("times can be set");
    }
    let nginx = Nginx::start(scratch, &repo.root);
    let upstream = format!("http://{}", nginx.address);
    let config = ServerConfig::default()
        .tree("flat", "generic-deb", &repo.root, "suites = [\"./\"]")
        .upstream("up", "generic-deb", &upstream, "suites = [\"./\"]");
    let server = Server::start(scratch, &config);
    wait_for("both repositories", DEADLINE, || {
        ["flat", "up"].iter().all(|repo| get(&server.url(&format!("{repo}/Release"))).status == 200)
    });
    let volunteers = Volunteer::join_all(scratch, &server, 1);
    World { nginx, server, _volunteers: volunteers, file }
}

#[test]
fn conditions_are_judged_alike_everywhere() {
    let scratch = Scratch::new();
    let World { nginx, server, _volunteers, file } = start(&scratch);
    let redirected = server.wait_redirect(&format!("flat/{file}"));
    let places = [
        ("a root file", server.url("flat/Release")),
        ("a root file of an upstream", server.url("up/Release")),
        ("a member", server.url("flat/Packages")),
        ("a package of a tree", server.direct(&format!("flat/{file}"))),
        ("a package of an upstream", server.direct(&format!("up/{file}"))),
        ("an unnamed file of a tree", server.url("flat/README")),
        ("an unnamed file of an upstream", server.url("up/README")),
        ("a volunteer", redirected),
    ];
    for (place, url) in &places {
        check(place, url, TABLE);
        check(place, url, NOT_OF_NGINX);
    }
    check("nginx", &nginx.url(&file), TABLE);

    let date = |url: &str| get(url).expect(200).must("last-modified").to_owned();
    for (place, url) in &places[..3] {
        let later = httpdate(SystemTime::now());
        let answer = request("GET", url, &[("If-Modified-Since", &later)]);
        assert_eq!(answer.status, 304, "{place} has not changed since {later}");
        assert_eq!(request("GET", url, &[("If-Modified-Since", FUTURE)]).status, 200, "{place}");
    }
    // Their dates follow from the bytes: a copy of another date is another one's.
    assert_eq!(date(&places[3].1), date(&places[7].1));
    for (place, url) in [&places[3], &places[4], &places[7]] {
        let later = httpdate(SystemTime::now());
        assert_eq!(request("GET", url, &[("If-Modified-Since", &later)]).status, 200, "{place}");
    }
}

fn httpdate(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
}

#[test]
fn what_a_client_has_is_not_redirected() {
    let scratch = Scratch::new();
    let World { server, _volunteers, file, .. } = start(&scratch);
    let path = format!("flat/{file}");
    server.wait_redirect(&path);
    let (url, whole) = (server.url(&path), get(&server.direct(&path)).expect(200));
    for row in TABLE.iter().chain(NOT_OF_NGINX) {
        let answer = ask(&url, &whole, row);
        let status = if matches!(row.2, 304 | 412) { row.2 } else { 302 };
        assert_eq!(answer.status, status, "{row:?}: {:?}", answer.headers);
        assert_eq!(answer.header("location").is_some(), status == 302, "{row:?}");
        assert_eq!(answer.must("vary"), "Accept", "{row:?}");
        if status == 304 {
            assert_eq!(answer.must("etag"), whole.must("etag"), "{row:?}");
        }
    }
}

#[test]
fn long_targets_and_large_heads() {
    let scratch = Scratch::new();
    let World { server, _volunteers, file, .. } = start(&scratch);
    let volunteer = server.wait_redirect(&format!("flat/{file}"));
    let base = format!("http://{}", support::split_url(&volunteer).0);
    for base in [server.base(), base] {
        let status = |len: usize| get(&format!("{base}/{}", "a".repeat(len))).status;
        assert_eq!((status(8000), status(20_000), status(70_000)), (404, 414, 414), "{base}");
        let query = get(&format!("{base}/x?{}", "a".repeat(20_000)));
        assert_eq!(query.status, 414, "{base}");
        let large = "a".repeat(20_000);
        assert_eq!(request("GET", &format!("{base}/"), &[("X-Large", &large)]).status, 431, "{base}");
    }
}
