//! A path inside a repository: relative, normal, printable, bounded. It can never leave its tree.
//!
//! Both request targets and the file names in metadata become a `RepoPath` before anything looks them up.

use std::fmt;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// What RFC 3986 does not allow plain in a path segment, and `%`. `+` and `~` stay plain: volunteers and this
/// server read both forms.
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');
/// The same for other people's servers. RFC 3986 allows a plain `+`, but S3 and what stands before it read it as
/// a space. apt, dnf and zypper write `%2b` for that reason.
const FOREIGN_SEGMENT: &AsciiSet = &SEGMENT.add(b'+');

/// Longest path taken: PATH_MAX of Linux; longer names exist in no archive.
const MAX_LEN: usize = 4096;

/// Relative path with `/` between segments; no empty segment, no `.`, no `..`, no control character.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoPath(Box<str>);

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path is empty")]
    Empty,
    #[error("the path is longer than {MAX_LEN} bytes")]
    TooLong,
    #[error("the path is absolute")]
    Absolute,
    #[error("the path has a '..' segment")]
    Escapes,
    #[error("the path has a control character")]
    Unprintable,
    #[error("the path is not UTF-8 after percent-decoding")]
    NotUtf8,
}

impl RepoPath {
    /// A path as metadata writes it: plain text, perhaps with a leading `./` or doubled slashes.
    pub fn new(text: &str) -> Result<Self, PathError> {
        if text.len() > MAX_LEN {
            return Err(PathError::TooLong);
        }
        if text.starts_with('/') {
            return Err(PathError::Absolute);
        }
        if text.bytes().any(|c| c < 0x20 || c == 0x7f) {
            return Err(PathError::Unprintable);
        }
        // A backslash is a letter here, but some origins take it for a slash.
        if text.split(['/', '\\']).any(|segment| segment == "..") {
            return Err(PathError::Escapes);
        }
        if is_normal(text) {
            return Ok(Self(text.into()));
        }
        let kept: Vec<&str> = text.split('/').filter(|s| !s.is_empty() && *s != ".").collect();
        if kept.is_empty() {
            return Err(PathError::Empty);
        }
        Ok(Self(kept.join("/").into()))
    }

    /// The path part of a request target, percent-decoded once, without its leading slash. `.` and `..` are
    /// resolved (RFC 3986 section 5.2.4) after decoding, as nginx does; nothing leads above the top.
    pub fn from_url(encoded: &str) -> Result<Self, PathError> {
        if encoded.len() > 3 * MAX_LEN {
            return Err(PathError::TooLong);
        }
        let decoded = percent_decode_str(encoded).decode_utf8().map_err(|_| PathError::NotUtf8)?;
        if decoded.starts_with('/') {
            return Err(PathError::Absolute);
        }
        let mut kept = Vec::new();
        for segment in decoded.split('/') {
            match segment {
                "" | "." => {}
                ".." => _ = kept.pop().ok_or(PathError::Escapes)?,
                segment => kept.push(segment),
            }
        }
        Self::new(&kept.join("/"))
    }

    /// Whether a request target means a directory by its form: it ends with a slash, or with `.` or `..`.
    pub fn is_directory_url(encoded: &str) -> bool {
        let last = percent_decode_str(encoded).collect::<Vec<u8>>();
        matches!(last.rsplit(|&c| c == b'/').next(), None | Some(b"" | b"." | b".."))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Everything before the last segment; `None` at the top.
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    /// `base/self`, where `base` may be empty and is itself a normal path.
    pub fn under(&self, base: &str) -> Self {
        if base.is_empty() { self.clone() } else { Self(format!("{base}/{}", self.0).into()) }
    }

    /// The path as it stands in a URL of ours.
    pub fn to_url(&self) -> String {
        encode(&self.0)
    }

    /// The path as it stands in a request to an upstream.
    pub fn to_upstream_url(&self) -> String {
        utf8_percent_encode(&self.0, FOREIGN_SEGMENT).to_string()
    }
}

/// Percent-encodes a path or a file name for a URL.
pub fn encode(path: &str) -> String {
    utf8_percent_encode(path, SEGMENT).to_string()
}

fn is_normal(text: &str) -> bool {
    text.split('/').all(|segment| !segment.is_empty() && segment != ".")
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for RepoPath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for RepoPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_and_refuses() {
        let table: [(&str, Result<&str, PathError>); 15] = [
            ("pool/a.deb", Ok("pool/a.deb")),
            ("./a.deb", Ok("a.deb")),
            ("pool//a/./b", Ok("pool/a/b")),
            ("dir/", Ok("dir")),
            ("", Err(PathError::Empty)),
            (".", Err(PathError::Empty)),
            ("/etc/passwd", Err(PathError::Absolute)),
            ("a/../b", Err(PathError::Escapes)),
            ("..", Err(PathError::Escapes)),
            ("a\0b", Err(PathError::Unprintable)),
            ("a\nb", Err(PathError::Unprintable)),
            ("a\\b", Ok("a\\b")),
            ("..\\a", Err(PathError::Escapes)),
            ("a\\..\\b", Err(PathError::Escapes)),
            ("..a/b..", Ok("..a/b..")),
        ];
        for (text, want) in table {
            assert_eq!(
                RepoPath::new(text).as_ref().map(RepoPath::as_str),
                want.as_ref().copied(),
                "{text:?}"
            );
        }
    }

    #[test]
    fn url_forms() {
        let path = RepoPath::from_url("pool/libstdc%2b%2b_1%253a2%7erc1%20x.deb").expect("valid");
        assert_eq!(path.as_str(), "pool/libstdc++_1%3a2~rc1 x.deb");
        assert_eq!(path.to_url(), "pool/libstdc++_1%253a2~rc1%20x.deb");
        assert_eq!(path.to_upstream_url(), "pool/libstdc%2B%2B_1%253a2~rc1%20x.deb");
        assert_eq!(RepoPath::from_url(&path.to_upstream_url()).as_ref(), Ok(&path));
        assert_eq!(RepoPath::from_url("pool/libstdc++_1%253a2~rc1%20x.deb"), Ok(path));
        for (url, want) in [
            ("pool/a/../b", Ok("pool/b")),
            ("pool/./a", Ok("pool/a")),
            ("pool//..//a", Ok("a")),
            ("a/%2e%2e/b/%2E/c", Ok("b/c")),
            ("a%2f..%2fb", Ok("b")),
            ("a/..", Err(PathError::Empty)),
            ("%2e%2e/x", Err(PathError::Escapes)),
            ("a/../../x", Err(PathError::Escapes)),
            ("a/../../a/x", Err(PathError::Escapes)),
            ("a/%252e%252e/x", Ok("a/%2e%2e/x")),
            ("a/...", Ok("a/...")),
        ] {
            assert_eq!(
                RepoPath::from_url(url).as_ref().map(RepoPath::as_str),
                want.as_ref().copied(),
                "{url}"
            );
        }
        for (url, want) in [
            ("", true),
            ("a/", true),
            ("a/..", true),
            ("a/%2E", true),
            ("a%2f", true),
            ("a", false),
            ("a/..b", false),
        ] {
            assert_eq!(RepoPath::is_directory_url(url), want, "{url}");
        }
        assert_eq!(RepoPath::from_url("%2fetc/passwd"), Err(PathError::Absolute));
        assert_eq!(RepoPath::from_url("a%00"), Err(PathError::Unprintable));
        assert_eq!(RepoPath::from_url("%ff"), Err(PathError::NotUtf8));
    }
}
