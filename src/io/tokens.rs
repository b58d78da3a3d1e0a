//! Tokens with which volunteers join: a JSON file beside the database, so that `manyhands token` works while
//! the server runs. Only the SHA-256 of a token is kept. Written whole to a temporary file, then renamed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::BlobId;

/// One issued token, without its secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Token {
    /// Short name for people; the part of the token before the dot.
    pub id: String,
    #[serde(default)]
    pub note: String,
    pub issued_secs: u64,
    #[serde(default)]
    pub revoked_secs: Option<u64>,
    sha256: BlobId,
}

/// The token file of a state folder.
#[derive(Clone, Debug)]
pub struct TokenFile(PathBuf);

impl TokenFile {
    pub fn in_state_dir(dir: &Path) -> Self {
        Self(dir.join("tokens.json"))
    }

    /// All tokens, revoked ones included; none if the file does not exist yet.
    pub fn list(&self) -> io::Result<Vec<Token>> {
        match fs::read(&self.0) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// Makes a token and returns its text, which is stored nowhere.
    pub fn issue(&self, note: &str, now_secs: u64) -> io::Result<String> {
        let mut secret = [0; 28];
        getrandom::fill(&mut secret).map_err(io::Error::other)?;
        let id = secret[..4].iter().map(|b| format!("{b:02x}")).collect::<String>();
        let text = format!("mh-{id}.{}", URL_SAFE_NO_PAD.encode(&secret[4..]));
        let token = Token {
            id,
            note: note.to_owned(),
            issued_secs: now_secs,
            revoked_secs: None,
            sha256: hash(&text),
        };
        self.change(|tokens| {
            tokens.push(token);
            true
        })?;
        Ok(text)
    }

    /// Revokes by id; false if no valid token has it.
    pub fn revoke(&self, id: &str, now_secs: u64) -> io::Result<bool> {
        self.change(|tokens| {
            let found = tokens.iter_mut().find(|token| token.id == id && token.revoked_secs.is_none());
            found.map(|token| token.revoked_secs = Some(now_secs)).is_some()
        })
    }

    /// The valid token that a text is, if any.
    pub fn check(&self, text: &str) -> io::Result<Option<Token>> {
        let hash = hash(text.trim());
        Ok(self.list()?.into_iter().find(|token| token.sha256 == hash && token.revoked_secs.is_none()))
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Token>) -> bool) -> io::Result<bool> {
        let dir = self.0.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir)?;
        let owner = fs::metadata(dir)?;
        // Done by root for a service that runs as another user: handed over. Others cannot, and need not. A link in
        // that user's folder must not lead root elsewhere.
        let create = |path: &Path| {
            let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
            let file = File::options().write(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
            let _ = fchown(&file, Some(owner.uid()), Some(owner.gid()));
            Ok::<_, io::Error>(file)
        };
        let lock = create(&dir.join("tokens.lock"))?;
        fs4::FileExt::lock(&lock)?;
        let mut tokens = self.list()?;
        if !change(&mut tokens) {
            return Ok(false);
        }
        let temp = self.0.with_extension("new");
        let mut file = create(&temp)?;
        file.set_len(0)?;
        file.write_all(&serde_json::to_vec_pretty(&tokens).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(temp, &self.0)?;
        Ok(true)
    }
}

fn hash(text: &str) -> BlobId {
    BlobId(Sha256::digest(text.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issue_check_revoke() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = TokenFile::in_state_dir(&dir.path().join("state"));
        let text = file.issue("edge 1", 1000).expect("issue");
        let other = file.issue("edge 2", 1001).expect("issue");
        let token = file.check(&format!("{text}\n")).expect("read").expect("valid");
        assert_eq!((token.note.as_str(), token.issued_secs), ("edge 1", 1000));
        assert_eq!(file.check("mh-x.y").expect("read"), None);
        assert!(file.revoke(&token.id, 2000).expect("write"));
        assert!(!file.revoke(&token.id, 2000).expect("write"), "already revoked");
        assert_eq!(file.check(&text).expect("read"), None);
        assert!(file.check(&other).expect("read").is_some());
        let stored = fs::read_to_string(&file.0).expect("read");
        assert!(!stored.contains(text.rsplit('.').next().expect("secret")));
    }
}
