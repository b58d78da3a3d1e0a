//! Every way in as a row: request line, Host, what it means.

use super::*;
use crate::config::Profiles;

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
    [[repo]]
    name = "clash.example"
    distro = "generic-rpm"
    tree = "/srv/clash"
    aliases = ["http://deb.example/clash"]
    [[repo]]
    name = "hostly"
    distro = "generic-rpm"
    tree = "/srv/hostly"
    aliases = ["http://clash.example/x"]
"#;

const OWN: &str = "mirror.example:8080";

fn door() -> Door {
    let profiles = Profiles::built_in().expect("built in");
    Door::new(&ServeConfig::parse(CONFIG, &profiles).expect("valid"))
}

/// What a request means, as short text: `repo REST`, `repo! REST` where it is never redirected, `repo+ REST`
/// where the URL came from a list, else the variant or the status.
fn meaning(door: &Door, method: &str, target: &str, version: Version, hosts: &[&[u8]]) -> String {
    let uri: Uri = match target.parse() {
        Ok(uri) => uri,
        Err(e) => panic!("{target}: {e}"),
    };
    let mut headers = HeaderMap::new();
    for host in hosts {
        headers.append(header::HOST, http::HeaderValue::from_bytes(host).expect("a header value"));
    }
    let method = method.parse().expect("a method");
    let local = "192.0.2.1:3142".parse().expect("an address");
    let mark = |direct, listed| match (direct, listed) {
        (true, true) => "!+",
        (true, false) => "!",
        (false, true) => "+",
        (false, false) => "",
    };
    match door.target(&method, &uri, version, &headers, local) {
        Target::Repo { index, rest, direct, listed } => {
            let name = door.names.iter().find(|(_, at)| **at == index).expect("a known index").0;
            format!("{name}{} {rest}", mark(direct, listed))
        }
        Target::MirrorList { file } => format!("list {file}"),
        Target::Blob { rest, direct } => format!("blob{} {rest}", mark(direct, false)),
        Target::Signed { volunteer } => format!("signed {volunteer}"),
        Target::Index => "index".to_owned(),
        Target::Control => "control".to_owned(),
        Target::Connect { host, port } => format!("connect {host} {port}"),
        Target::Refused { status, .. } => status.as_u16().to_string(),
    }
}

fn check(table: &[(&str, &str, &str)]) {
    let door = door();
    for (target, host, want) in table {
        let found = meaning(&door, "GET", target, Version::HTTP_11, &[host.as_bytes()]);
        assert_eq!(found, *want, "{target} with Host {host}");
    }
}

#[test]
fn own_paths() {
    check(&[
        ("/", OWN, "index"),
        ("//", OWN, "index"),
        ("/direct/", OWN, "index"),
        ("/debian/dists/x?a=b", OWN, "debian dists/x"),
        ("//debian//dists//x", OWN, "debian dists//x"),
        ("/debian", OWN, "debian "),
        ("/direct/debian/x", OWN, "debian! x"),
        ("/debian/x", "unknown.example", "debian x"),
        ("/debian/x", "", "debian x"),
        ("/debian/../security/x", OWN, "debian ../security/x"),
        ("/debian%2fx", OWN, "404"),
        ("/Debian/x", OWN, "404"),
        ("/nosuch/x", OWN, "404"),
        ("/..", OWN, "404"),
        ("/listed/debian/x", OWN, "debian+ x"),
        ("/listed/debian/", OWN, "debian+ "),
        ("/listed/debian", OWN, "debian+ "),
        ("/listed", OWN, "404"),
        ("/listed/", OWN, "index"),
        ("/listed/nosuch/x", OWN, "404"),
        ("/listed/../debian/x", OWN, "404"),
        ("/listed/%64ebian/x", OWN, "404"),
        ("/%6cisted/debian/x", OWN, "404"),
        ("//listed/debian/x", OWN, "404"),
        ("/listed/listed/debian/x", OWN, "404"),
        ("/listed/direct/debian/x", OWN, "404"),
        ("/direct/listed/debian/x", OWN, "404"),
        ("/listed/old/debian/x", OWN, "404"),
        ("/listed/_blob/00ff/x", OWN, "blob 00ff/x"),
        ("/listed/_mh/v1/session", OWN, "404"),
        ("/mirrors/debian.txt", OWN, "list debian.txt"),
        ("/mirrors//debian.txt", OWN, "list debian.txt"),
        ("/mirrors/debian.txt?x=y", OWN, "list debian.txt"),
        ("/mirrors/../../etc/passwd", OWN, "list ../../etc/passwd"),
        ("/mirrors/", OWN, "list "),
        ("/mirrors", OWN, "list "),
        ("/mirrors.txt", OWN, "404"),
        ("/_blob/00ff/x", OWN, "blob 00ff/x"),
        ("/direct/_blob/00ff/x", OWN, "blob! 00ff/x"),
        ("/_mh/v1/session", OWN, "control"),
        ("*", OWN, "404"),
        // An alias that is an old URL of this server.
        ("/old/debian/x", OWN, "debian x"),
    ]);
}

#[test]
fn absolute_form_is_never_redirected() {
    check(&[
        ("http://deb.example/debian/dists/x", "deb.example", "debian! dists/x"),
        ("https://deb.example/debian/x", "deb.example", "debian! x"),
        ("http://deb.example:80/debian/x", "deb.example", "debian! x"),
        ("https://deb.example:443/debian/x", "deb.example", "debian! x"),
        ("HTTP://DEB.Example./debian/x", "deb.example", "debian! x"),
        ("http://deb.example//debian///x", "deb.example", "debian! x"),
        ("http://deb.example/debian?x", "deb.example", "debian! "),
        ("http://deb.example/%64ebian/x", "deb.example", "debian! x"),
        ("http://deb.example/debian/%2e%2e/x", "deb.example", "debian! %2e%2e/x"),
        // The longest base wins.
        ("http://deb.example/debian/security/x", "deb.example", "security! x"),
        ("http://deb.example/debian/securityx", "deb.example", "debian! securityx"),
        ("http://other.example:8000/pub/~user/debian/x", "x", "debian! x"),
        ("http://other.example:8000/pub/%7Euser/debian/x", "x", "debian! x"),
        ("http://whole.example/any/x", "x", "site! any/x"),
        ("http://whole.example", "x", "site! "),
        ("http://[2001:db8:0::1]/site/x", "x", "site! x"),
        // The Host of an absolute request does not count.
        ("http://deb.example/debian/x", OWN, "debian! x"),
        ("http://unknown.example/debian/x", "deb.example", "403"),
        // Not below a base.
        ("http://deb.example/", "deb.example", "403"),
        ("http://deb.example/debianx/x", "deb.example", "403"),
        ("http://deb.example/debian%2fsecurity", "deb.example", "403"),
        ("http://deb.example/y/../debian/x", "deb.example", "403"),
        ("http://deb.example:8080/debian/x", "deb.example", "403"),
        ("http://other.example/pub/~user/debian/x", "x", "403"),
        ("http://[2001:db8::2]/site/x", "x", "403"),
        ("http://192.0.2.2:3142/debian/x", "x", "403"),
        ("http://localhost:8081/api/v1/status", "x", "403"),
        ("http://unknown.example/_mh/v1/session", "x", "403"),
        // This server itself, by its name and by the address of the connection.
        ("http://mirror.example:8080/debian/x", "x", "debian! x"),
        ("http://mirror.example:8080/old/debian/x", "x", "debian! x"),
        ("http://192.0.2.1:3142/debian/x", "x", "debian! x"),
        ("http://192.0.2.1:3142/listed/debian/x", "x", "debian!+ x"),
        ("http://192.0.2.1:3142/mirrors/debian.txt", "x", "list debian.txt"),
        ("http://unknown.example/mirrors/debian.txt", "x", "403"),
        ("http://deb.example/listed/debian/x", "x", "403"),
        ("http://192.0.2.1:3142/_mh/v1/session", "x", "control"),
        ("http://192.0.2.1:3142/", "x", "index"),
        // apt-cacher-ng's way to name an https upstream to a proxy.
        ("http://HTTPS///deb.example/debian/x", "HTTPS", "debian! x"),
        ("http://https///unknown.example/x", "HTTPS", "403"),
        ("http://me:secret@deb.example/debian/x", "x", "400"),
        ("ftp://deb.example/debian/x", "x", "400"),
        ("deb.example:80", "x", "400"),
    ]);
}

#[test]
fn intercepted_requests_are_never_redirected() {
    check(&[
        ("/debian/x", "deb.example", "debian! x"),
        ("/debian/x", "DEB.EXAMPLE:80", "debian! x"),
        ("/debian/security/x", "deb.example", "security! x"),
        ("/any/x", "whole.example", "site! any/x"),
        ("/site/x", "[2001:db8::1]", "site! x"),
        // Not below a base of that host: one of our own paths, as from any host.
        ("/security/x", "deb.example", "security x"),
        ("/debian/x", "deb.example:8080", "debian x"),
        ("/nosuch/x", "deb.example", "404"),
    ]);
}

#[test]
fn a_volunteers_url_comes_here_by_its_host() {
    check(&[
        ("/b/1-0/00/x", "v1.v.mirror.example", "signed v1"),
        ("/b/1-0/00/x", "V1.v.Mirror.example.:80", "signed v1"),
        ("/b/", "v1.v.mirror.example", "signed v1"),
        ("/b/1-0/00/x", "a.v1.v.mirror.example", "404"),
        ("/b/1-0/00/x", "v.mirror.example", "404"),
        ("/b/1-0/00/x", OWN, "404"),
        ("/bb/x", "v1.v.mirror.example", "404"),
        ("/debian/x", "v1.v.mirror.example", "debian x"),
        ("http://v1.v.mirror.example/b/1-0/00/x", "v1.v.mirror.example", "403"),
    ]);
}

#[test]
fn hosts_in_the_path_as_apt_cacher_ng_has_them() {
    check(&[
        ("/deb.example/debian/x", OWN, "debian x"),
        ("/DEB.example:80/debian/x", OWN, "debian x"),
        ("/direct/deb.example/debian/x", OWN, "debian! x"),
        ("/listed/deb.example/debian/x", OWN, "debian+ x"),
        ("/listed/HTTPS///deb.example/debian/x", OWN, "debian+ x"),
        ("/mirrors/deb.example/debian/x", OWN, "list deb.example/debian/x"),
        ("/HTTPS///deb.example/debian/security/x", OWN, "security x"),
        ("/https///other.example:8000/pub/~user/debian/x", OWN, "debian x"),
        ("/direct/HTTPS///deb.example/debian/x", OWN, "debian! x"),
        ("/deb.example/debian", OWN, "debian "),
        ("/deb.example/nosuch/x", OWN, "404"),
        ("/unknown.example/debian/x", OWN, "404"),
        ("/HTTPS///unknown.example/debian/x", OWN, "403"),
        ("/HTTPS%2f%2f%2fdeb.example/debian/x", OWN, "404"),
        ("/HTTPS/deb.example/debian/x", OWN, "404"),
        ("/me@deb.example/debian/x", OWN, "404"),
        // A repository's name wins over a host.
        ("/clash.example/x/y", OWN, "clash.example x/y"),
        ("/HTTPS///clash.example/x/y", OWN, "hostly y"),
    ]);
}

#[test]
fn tunnels_lead_where_the_configuration_says() {
    let door = door();
    for (target, want) in [
        ("secure.example:443", "connect secure.example 443"),
        ("SECURE.example.:443", "connect secure.example 443"),
        ("a.wild.example:8443", "connect a.wild.example 8443"),
        ("[2001:db8:0::7]:443", "connect 2001:db8::7 443"),
        ("secure.example:22", "403"),
        ("wild.example:8443", "403"),
        ("deb.example:443", "403"),
        ("127.0.0.1:8081", "403"),
        ("secure.example", "400"),
        ("me@secure.example:443", "400"),
        ("/debian/x", "400"),
        ("http://secure.example:443/", "400"),
    ] {
        assert_eq!(meaning(&door, "CONNECT", target, Version::HTTP_11, &[b"x"]), want, "{target}");
    }
}

#[test]
fn a_host_is_wanted_once_and_sound() {
    let door = door();
    let get = |target, version, hosts: &[&[u8]]| meaning(&door, "GET", target, version, hosts);
    assert_eq!(get("/debian/x", Version::HTTP_10, &[]), "debian x");
    assert_eq!(get("http://deb.example/debian/x", Version::HTTP_10, &[]), "debian! x");
    assert_eq!(get("/debian/x", Version::HTTP_11, &[]), "400");
    for version in [Version::HTTP_10, Version::HTTP_11] {
        assert_eq!(get("/debian/x", version, &[b"a.example", b"a.example"]), "400");
        assert_eq!(get("http://deb.example/debian/x", version, &[b"a.example", b"b.example"]), "400");
    }
    let garbage: [&[u8]; 8] =
        [b"a b", b"me@deb.example", b"deb.example/debian", b"a,b", b"x:y", b"x:99999", b"[::1", b"\xff\xfe"];
    for host in garbage {
        assert_eq!(get("/debian/x", Version::HTTP_11, &[host]), "400", "{:?}", String::from_utf8_lossy(host));
    }
}

#[test]
fn a_refusal_says_what_is_served_and_what_to_set() {
    let text = door().refusal;
    for part in ["http://deb.example/debian", "http://whole.example/", "aliases", "public_url"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

proptest::proptest! {
    /// Whatever is asked: the answer stays within the path, and a proxy's client is never redirected.
    #[test]
    fn any_request_has_a_meaning(
        host in "(deb|other|mirror|whole|HTTPS|x)?(\\.example)?(:[0-9]{0,4})?",
        path in "(/{1,3}(debian|security|direct|listed|mirrors|HTTPS|deb\\.example|_blob|\\.\\.|%2f|%ff|x)){0,6}/?",
    ) {
        let door = door();
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, http::HeaderValue::from_str(&host).expect("plain"));
        let local = "192.0.2.1:3142".parse().expect("an address");
        for target in [format!("http://{host}{path}"), path.clone()] {
            let Ok(uri) = target.parse::<Uri>() else { continue };
            match door.target(&Method::GET, &uri, Version::HTTP_11, &headers, local) {
                Target::Repo { index, rest, direct, listed } => {
                    assert!(!listed || path.contains("/listed/"));
                    assert!(index < door.names.len() && path.ends_with(rest) && !rest.starts_with('/'));
                    assert!(direct || uri.scheme().is_none());
                }
                Target::Blob { rest, direct } => {
                    assert!(path.ends_with(rest) && (direct || uri.scheme().is_none()));
                }
                Target::Connect { .. } | Target::Control => panic!("{target} means neither"),
                Target::MirrorList { file } => assert!(path.ends_with(file) && path.contains("/mirrors")),
                Target::Signed { .. } => panic!("{host} is in no zone"),
                Target::Index | Target::Refused { .. } => {}
            }
        }
    }
}
