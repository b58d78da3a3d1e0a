//! User names and passwords for HTTP servers: in URLs (RFC 3986 section 3.2.1), in files as apt_auth.conf(5) and
//! curl's netrc have them, and as HTTP's Basic scheme sends them (RFC 7617).
//!
//! Nothing here prints them: who needs the text asks for it by name.

use std::fmt;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use percent_encoding::percent_decode_str;

use super::authority::Authority;

/// A user name and a password. The name is hidden like the password: some services put a token there.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    password: String,
}

/// Why something does not give credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    #[error("the user name or the password is not UTF-8 after percent-decoding")]
    NotUtf8,
    #[error("the user name has a colon or a control character, or the password a control character")]
    Unsendable,
    #[error("it has neither `machine HOST login USER password PASSWORD` nor one line `USER:PASSWORD`")]
    NoFormat,
}

impl Credentials {
    pub fn new(user: &str, password: &str) -> Result<Self, CredentialsError> {
        // RFC 7617 section 2: the first colon ends the name.
        if user.contains(':') || [user, password].iter().any(|text| text.contains(char::is_control)) {
            return Err(CredentialsError::Unsendable);
        }
        Ok(Self { user: user.to_owned(), password: password.to_owned() })
    }

    /// `user:password` or `user` as it stands before the `@` of a URL, percent-decoded.
    pub fn from_userinfo(text: &str) -> Result<Self, CredentialsError> {
        let (user, password) = text.split_once(':').unwrap_or((text, ""));
        let decoded = |text| percent_decode_str(text).decode_utf8().map_err(|_| CredentialsError::NotUtf8);
        Self::new(&decoded(user)?, &decoded(password)?)
    }

    /// The value of an `Authorization` header.
    pub fn basic(&self) -> String {
        format!("Basic {}", BASE64.encode(format!("{}:{}", self.user, self.password)))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

/// A URL without its user information, and that, still encoded.
pub fn split_url(url: &str) -> (String, Option<&str>) {
    let Some((scheme, rest)) = url.split_once("://") else { return (url.to_owned(), None) };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((userinfo, host)) => (format!("{scheme}://{host}{path}"), Some(userinfo)),
        None => (url.to_owned(), None),
    }
}

/// A text of several lines with whatever may be the user information of a URL in it made unreadable, byte for byte, so
/// that places in the text stay what they are. Rather too much than too little: a password may have a `/`, a quote or a
/// blank that its writer forgot to encode, so that everything before the last `@` of a line counts as one.
pub fn hidden(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find('\n').unwrap_or(after.len());
        let userinfo = after[..end].rfind('@').unwrap_or(0);
        out.push_str(&"*".repeat(userinfo));
        out.push_str(&after[userinfo..end]);
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

/// One value that may be a URL, with whatever may be its user information made unreadable: all before the last `@`,
/// whether it is a URL or only meant to be one.
pub fn hidden_value(text: &str) -> String {
    let Some(at) = text.rfind('@') else { return text.to_owned() };
    let (scheme, _) = text[..at].split_once("://").unwrap_or(("", ""));
    match scheme {
        "" => format!("***{}", &text[at..]),
        scheme => format!("{scheme}://***{}", &text[at..]),
    }
}

/// Whether nobody on the path can read the headers of a request to this URL: https, or this machine itself.
pub fn is_sealed(url: &str) -> bool {
    let host = url.strip_prefix("http://").and_then(|rest| rest.split(['/', '?', '#']).next());
    let host = host.and_then(Authority::parse).map(|authority| authority.host);
    let is_loopback =
        |host: &str| host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    url.starts_with("https://") || host.is_some_and(|host| is_loopback(&host))
}

/// What a file of credentials says.
#[derive(Debug)]
pub enum CredentialsFile {
    /// One line `user:password`, for every URL.
    One(Credentials),
    Machines(Vec<Machine>),
}

/// One entry: `machine [PROTOCOL://]HOST[:PORT][/PATH] login USER password PASSWORD`.
#[derive(Debug)]
pub struct Machine {
    scheme: Option<String>,
    authority: Authority,
    /// With its leading slash, or empty.
    path: String,
    credentials: Credentials,
}

impl CredentialsFile {
    /// Lines that begin with `#` are comments; unknown tokens are skipped, as apt does.
    pub fn parse(text: &str) -> Result<Self, CredentialsError> {
        let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut tokens = lines().flat_map(str::split_whitespace).peekable();
        if tokens.peek() != Some(&"machine") {
            let (line, more) = (lines().next().unwrap_or(""), lines().nth(1));
            let (user, password) =
                line.split_once(':').filter(|_| more.is_none()).ok_or(CredentialsError::NoFormat)?;
            return Ok(Self::One(Credentials::new(user, password)?));
        }
        let mut machines = Vec::new();
        while let Some(token) = tokens.next() {
            if token != "machine" {
                continue;
            }
            let name = tokens.next().ok_or(CredentialsError::NoFormat)?;
            let (mut user, mut password) = ("", "");
            while let Some(&key) = tokens.peek().filter(|&&key| key != "machine") {
                tokens.next();
                match key {
                    "login" => user = tokens.next().unwrap_or(""),
                    "password" => password = tokens.next().unwrap_or(""),
                    _ => {}
                }
            }
            machines.push(Machine::parse(name, Credentials::new(user, password)?)?);
        }
        Ok(Self::Machines(machines))
    }

    /// The credentials for a base URL: the first entry that matches it. An entry that names no protocol is for
    /// https, and for this machine, alone.
    pub fn find(&self, base: &str) -> Option<&Credentials> {
        match self {
            Self::One(credentials) => Some(credentials),
            Self::Machines(all) => {
                all.iter().find(|machine| machine.matches(base)).map(|machine| &machine.credentials)
            }
        }
    }
}

impl Machine {
    fn parse(name: &str, credentials: Credentials) -> Result<Self, CredentialsError> {
        let (scheme, rest) = match name.split_once("://") {
            Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
            None => (None, name),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let authority = Authority::parse(authority).ok_or(CredentialsError::NoFormat)?;
        Ok(Self { scheme, authority, path: path.to_owned(), credentials })
    }

    fn matches(&self, base: &str) -> bool {
        let Some((scheme, rest)) = base.split_once("://") else { return false };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let is_scheme = self.scheme.as_deref().map_or_else(|| is_sealed(base), |wanted| wanted == scheme);
        let is_place = Authority::parse(authority).is_some_and(|authority| {
            authority.host == self.authority.host
                && self.authority.port.is_none_or(|port| Some(port) == port_of(scheme, &authority))
        });
        is_scheme && is_place && format!("{path}/").starts_with(&self.path)
    }
}

/// The port that a URL means.
fn port_of(scheme: &str, authority: &Authority) -> Option<u16> {
    authority.port.or(match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split_and_decoded() {
        for (url, clean, basic) in [
            ("https://h.example/x", "https://h.example/x", None),
            ("https://Aladdin:open%20sesame@h/x", "https://h/x", Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")),
            ("https://token@h:8443", "https://h:8443", Some("Basic dG9rZW46")),
            ("https://a:b:c%40d@[::1]/x@y", "https://[::1]/x@y", Some("Basic YTpiOmNAZA==")),
            ("https://h/@scope/x", "https://h/@scope/x", None),
        ] {
            let (got, userinfo) = split_url(url);
            let got_basic = userinfo.map(|text| Credentials::from_userinfo(text).expect("sendable").basic());
            assert_eq!((got.as_str(), got_basic.as_deref()), (clean, basic), "{url}");
        }
        assert_eq!(Credentials::from_userinfo("%ff:x"), Err(CredentialsError::NotUtf8));
        assert_eq!(Credentials::from_userinfo("a%3ab:x"), Err(CredentialsError::Unsendable));
        assert_eq!(Credentials::from_userinfo("a:x%0d%0aHost: y"), Err(CredentialsError::Unsendable));
    }

    #[test]
    fn nothing_is_shown() {
        let credentials = Credentials::new("me", "s3cr3t").expect("sendable");
        assert_eq!(format!("{credentials:?}"), "Credentials(hidden)");
        for (text, want) in [
            ("no url", "no url"),
            (
                "upstream = ['https://a:b@h/x', \"http://c@d\"]\nnext",
                "upstream = ['https://*******************@d\"]\nnext",
            ),
            ("upstream = [\"http://me:it's a@h/x\"]", "upstream = [\"http://*********@h/x\"]"),
            ("https://a:b/c@h/ and http://h/", "https://*****@h/ and http://h/"),
            ("https://\u{e4}:b@h", "https://****@h"),
        ] {
            assert_eq!(hidden(text), want);
            assert_eq!(hidden(text).len(), text.len());
        }
    }

    #[test]
    fn no_value_shows_a_password() {
        for (text, want) in [
            ("https://h/x", "https://h/x"),
            ("https://me:s3cr3t@h/x", "https://***@h/x"),
            ("http://me:it's@h/x", "http://***@h/x"),
            ("me:s3cr3t@h/x", "***@h/x"),
            ("https:/me:pw@h", "***@h"),
        ] {
            assert_eq!(hidden_value(text), want);
        }
    }

    #[test]
    fn sealed_is_https_or_this_machine() {
        for (url, want) in [
            ("https://h.example/", true),
            ("http://h.example/", false),
            ("http://10.0.0.1/", false),
            ("http://127.0.7.9:8080/x", true),
            ("http://[::1]:80", true),
            ("http://localhost/x", true),
            ("http://localhost.example/x", false),
            ("http://127.0.0.1.example/", false),
        ] {
            assert_eq!(is_sealed(url), want, "{url}");
        }
    }

    /// The examples of apt_auth.conf(5), and a few more.
    #[test]
    fn machines_match_as_apt_says() {
        let find = |name: &str, url: &str| {
            let text = format!("# a comment\nmachine {name}\n login apt password debian\n");
            CredentialsFile::parse(&text).expect("valid").find(url).map(Credentials::basic)
        };
        let url = "https://example.org/debian";
        for name in ["example.org", "example.org/deb", "example.org/debian", "example.org/debian/"] {
            assert_eq!(find(name, url).as_deref(), Some("Basic YXB0OmRlYmlhbg=="), "{name}");
        }
        for name in
            ["example.org:444", "example.org/deb/", "example.org/ubuntu", "example.orga", "example.net"]
        {
            assert_eq!(find(name, url), None, "{name}");
        }
        assert!(find("example.org:443", url).is_some(), "the port that the URL means");
        assert_eq!(find("example.org", "http://example.org/debian"), None, "in the clear only when told so");
        assert!(find("http://example.org", "http://example.org/debian").is_some());
        assert_eq!(find("http://example.org", url), None);
        assert!(find("127.0.0.1:81", "http://127.0.0.1:81/x").is_some());
    }

    #[test]
    fn files_have_one_of_two_forms() {
        let one = CredentialsFile::parse("# for the build hosts\nme:pass word:x\n").expect("valid");
        let want = Credentials::new("me", "pass word:x").expect("sendable");
        assert_eq!(one.find("http://anything"), Some(&want));
        let two = "machine a.example login x password y account z\nmachine b.example/c password q login p\n";
        let two = CredentialsFile::parse(two).expect("valid");
        let basic = |url| two.find(url).map(Credentials::basic);
        assert_eq!(basic("https://a.example"), Some("Basic eDp5".to_owned()));
        assert_eq!(basic("https://b.example/c/d"), Some("Basic cDpx".to_owned()));
        assert_eq!(basic("https://b.example/d"), None);
        for text in ["", "# nothing", "nonsense", "a:b\nc:d", "machine", "machine @@ login x"] {
            assert_eq!(CredentialsFile::parse(text).err(), Some(CredentialsError::NoFormat), "{text}");
        }
    }
}
