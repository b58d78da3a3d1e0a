//! Every file of a repository by plain HTTP: status, headers and bytes of two servers side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::support::{Conn, Response, files, split_url};

/// Headers that say the same wherever a file comes from.
const HEADERS: [&str; 8] = [
    "Content-Type",
    "Content-Length",
    "Last-Modified",
    "Accept-Ranges",
    "Content-Range",
    "Content-Encoding",
    "Transfer-Encoding",
    "ETag",
];
/// A date before all files.
const LONG_AGO: &str = "Sat, 01 Jan 2000 00:00:00 GMT";

/// What differs, of which use of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    pub file: &'static str,
    pub what: String,
    pub straight: String,
    pub through: String,
}

/// Where a difference was seen.
#[derive(Debug, Default)]
pub struct Where {
    pub requests: BTreeSet<&'static str>,
    /// Files, by way.
    pub ways: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Debug, Default)]
pub struct Bytes {
    pub kinds: BTreeMap<Kind, Where>,
    /// Files, and requests to the server under test.
    pub files: usize,
    pub requests: usize,
    /// Names of headers that only one of both sends.
    pub only_straight: BTreeSet<String>,
    pub only_through: BTreeSet<String>,
    /// The repository that is being compared.
    repo: String,
}

/// One server and the path of a repository there.
struct Side<'a> {
    address: &'a str,
    path: &'a str,
    connection: Option<Conn>,
}

impl<'a> Side<'a> {
    fn new(url: &'a str) -> Self {
        let (address, path) = split_url(url);
        Self { address, path, connection: None }
    }

    fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        let target = format!("{}/{path}", self.path);
        let mut connection = self.connection.take().unwrap_or_else(|| Conn::open(self.address));
        let text = connection.request_text(method, &target, headers);
        let answer =
            connection.send(text.as_bytes()).and_then(|()| connection.read_response(method == "HEAD"));
        // A connection that ends without an answer.
        let none = |_| Response { status: 0, headers: Vec::new(), body: Vec::new(), cut: true };
        let response = answer.unwrap_or_else(none);
        let is_last = response.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if !is_last && !response.cut {
            self.connection = Some(connection);
        }
        response
    }
}

/// As clients write it in a URL.
fn encode(path: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/@:,=".contains(&byte);
    let of = |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    path.bytes().map(of).collect()
}

/// What clients use a file for.
fn use_of(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or(path);
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| name.ends_with(suffix));
    match () {
        () if ["repomd.xml", "repomd.xml.asc", "InRelease", "Release", "Release.gpg"].contains(&name) => {
            "root"
        }
        () if ends(&[".rpm", ".drpm", ".deb", ".udeb", ".ddeb", ".dsc", ".orig.tar.gz", ".diff.gz"]) => {
            "package"
        }
        () if path.contains("repodata/") || path.contains("dists/") => "list",
        () if name.starts_with("Packages") || name.starts_with("Sources") => "list",
        () => "other",
    }
}

impl Bytes {
    /// Compares all files of a repository in a folder by its two URLs, without a slash at the end.
    pub fn compare(&mut self, shown: &str, root: &Path, urls: [&str; 2], way: &str) {
        let mut sides = urls.map(Side::new);
        shown.clone_into(&mut self.repo);
        let mut folders = BTreeSet::new();
        for file in files(root) {
            let path = file.to_str().expect("names in UTF-8");
            let local = std::fs::read(root.join(path)).expect("a readable file");
            self.files += 1;
            self.file(&mut sides, path, &local, way);
            folders.extend(file.parent().map(|folder| folder.display().to_string()));
        }
        for folder in folders {
            let slash = if folder.is_empty() { "" } else { "/" };
            self.pair(&mut sides, "folder", ("GET folder/", "GET"), &format!("{folder}{slash}"), &[], way);
            if !folder.is_empty() {
                self.pair(&mut sides, "folder", ("GET folder", "GET"), &folder, &[], way);
            }
        }
    }

    fn file(&mut self, sides: &mut [Side<'_>; 2], path: &str, local: &[u8], way: &str) {
        let file = use_of(path);
        let [straight, through] = self.pair(sides, file, ("GET", "GET"), path, &[], way);
        if straight.body != local {
            self.add(file, "GET", "not the file on disk", ("differs", ""), way, path);
        }
        if through.status != 200 || straight.status != 200 {
            return;
        }
        self.pair(sides, file, ("HEAD", "HEAD"), path, &[], way);
        let end = local.len();
        let ranges = [
            ("first byte", "bytes=0-0".to_owned()),
            ("middle", format!("bytes={}-{}", end / 3, end / 2)),
            ("last 5", "bytes=-5".to_owned()),
            ("from 1 on", "bytes=1-".to_owned()),
            ("beyond its end", format!("bytes={end}-")),
            ("longer than it is", format!("bytes=0-{}", end + 10)),
            ("two ranges", "bytes=0-0,2-3".to_owned()),
            ("other unit", "lines=0-1".to_owned()),
            ("backwards", "bytes=5-2".to_owned()),
        ];
        for (name, range) in &ranges {
            self.pair(sides, file, (name, "GET"), path, &[("Range", range)], way);
        }
        self.pair(sides, file, ("HEAD with Range", "HEAD"), path, &[("Range", "bytes=0-0")], way);
        self.conditions(sides, path, [&straight, &through], way);
        let missing = format!("{path}.missing");
        self.pair(sides, file, ("no such file", "GET"), &missing, &[], way);
    }

    /// Conditions, each side with what it said itself.
    fn conditions(&mut self, sides: &mut [Side<'_>; 2], path: &str, firsts: [&Response; 2], way: &str) {
        let of = |name: &str| firsts.map(|first| first.header(name).unwrap_or_default().to_owned());
        let (tags, times) = (of("ETag"), of("Last-Modified"));
        let both = |value: &str| [value.to_owned(), value.to_owned()];
        let none = ["", ""].map(str::to_owned);
        let cases: [(&'static str, &str, [String; 2], [String; 2]); 7] = [
            ("If-None-Match its own", "If-None-Match", tags.clone(), none.clone()),
            ("If-None-Match another", "If-None-Match", both("\"no\""), none.clone()),
            ("If-Modified-Since its own", "If-Modified-Since", times.clone(), none.clone()),
            ("If-Modified-Since long ago", "If-Modified-Since", both(LONG_AGO), none),
            ("If-Range its own time", "If-Range", times, both("bytes=0-0")),
            ("If-Range its own tag", "If-Range", tags, both("bytes=0-0")),
            ("If-Range long ago", "If-Range", both(LONG_AGO), both("bytes=0-0")),
        ];
        for (request, header, values, ranges) in cases {
            let [straight, through] = [0, 1].map(|side| {
                let mut headers = vec![(header, values[side].as_str())];
                if !ranges[side].is_empty() {
                    headers.push(("Range", ranges[side].as_str()));
                }
                sides[side].ask("GET", &encode(path), &headers)
            });
            self.judge(use_of(path), request, (&straight, &through), way, path);
        }
    }

    fn pair(
        &mut self,
        sides: &mut [Side<'_>; 2],
        file: &'static str,
        (request, method): (&'static str, &str),
        path: &str,
        headers: &[(&str, &str)],
        way: &str,
    ) -> [Response; 2] {
        let [one, two] = sides;
        let answers = [one, two].map(|side| side.ask(method, &encode(path), headers));
        self.judge(file, request, (&answers[0], &answers[1]), way, path);
        answers
    }

    fn judge(
        &mut self,
        file: &'static str,
        request: &'static str,
        (straight, through): (&Response, &Response),
        way: &str,
        path: &str,
    ) {
        self.requests += 1;
        if straight.status != through.status {
            let status = [straight, through].map(|answer| answer.status.to_string());
            self.add(file, request, "status", (&status[0], &status[1]), way, path);
            return;
        }
        // What an error says of itself is the server's own.
        if straight.status >= 300 && straight.status != 304 {
            return;
        }
        if content(straight) != content(through) || straight.cut != through.cut {
            self.add(file, request, "body", ("some bytes", "others"), way, path);
        }
        let is_parts = parts(straight).is_some();
        // The length of several parts is that of the server's own words between them.
        for name in HEADERS.into_iter().filter(|name| !is_parts || *name != "Content-Length") {
            let (want, got) = shapes(name, straight.header(name), through.header(name));
            if want != got {
                self.add(file, request, name, (&want, &got), way, path);
            }
        }
        let names = |answer: &Response| answer.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
        let (one, two): (BTreeSet<String>, BTreeSet<String>) = (names(straight), names(through));
        self.only_straight.extend(one.difference(&two).cloned());
        self.only_through.extend(two.difference(&one).cloned());
    }

    fn add(
        &mut self,
        file: &'static str,
        request: &'static str,
        what: &str,
        (straight, through): (&str, &str),
        way: &str,
        path: &str,
    ) {
        let [straight, through] = [straight, through].map(str::to_owned);
        let seen = self.kinds.entry(Kind { file, what: what.to_owned(), straight, through }).or_default();
        seen.requests.insert(request);
        seen.ways.entry(way.to_owned()).or_default().insert(format!("{}/{path}", self.repo));
    }
}

/// The parts of a multipart/byteranges answer: range and bytes.
fn parts(answer: &Response) -> Option<Vec<(String, Vec<u8>)>> {
    let kind = answer.header("Content-Type")?.strip_prefix("multipart/byteranges")?;
    let boundary = format!("--{}", kind.split_once("boundary=")?.1.trim_matches('"'));
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|window| window == what);
    let (mut rest, mut found) = (answer.body.as_slice(), Vec::new());
    while let Some(begin) = find(rest, boundary.as_bytes()) {
        rest = &rest[begin + boundary.len()..];
        let Some(head) = find(rest, b"\r\n\r\n") else { break };
        let text = String::from_utf8_lossy(&rest[..head]).to_lowercase();
        let range = text.lines().find_map(|line| line.strip_prefix("content-range:"))?.trim().to_owned();
        rest = &rest[head + 4..];
        let end = find(rest, format!("\r\n{boundary}").as_bytes())?;
        found.push((range, rest[..end].to_vec()));
    }
    Some(found)
}

/// What an answer is about, whatever is between its parts.
fn content(answer: &Response) -> Vec<(String, Vec<u8>)> {
    parts(answer).unwrap_or_else(|| vec![(String::new(), answer.body.clone())])
}

/// Two values of a header as a difference of a kind; the same twice where they are as good as each other.
fn shapes(name: &str, want: Option<&str>, got: Option<&str>) -> (String, String) {
    let (Some(want), Some(got)) = (want, got) else {
        let shape = |value: Option<&str>| value.map_or("none", |_| "sent").to_owned();
        return (shape(want), shape(got));
    };
    let same = || (String::new(), String::new());
    match name {
        // Each server's own.
        "ETag" => same(),
        _ if want == got => same(),
        "Last-Modified" => {
            let time = |value: &str| httpdate::parse_http_date(value).expect("a date");
            let order = if time(got) > time(want) { "later" } else { "earlier" };
            ("a time".to_owned(), order.to_owned())
        }
        // The boundary is made up anew each time.
        "Content-Type" => {
            let [want, got] =
                [want, got].map(|value| value.split("; boundary").next().unwrap_or(value).to_owned());
            (want, got)
        }
        _ => ("a value".to_owned(), "another".to_owned()),
    }
}
