//! Configuration files from disk: the text, the profiles and the keyrings that it names. What they mean is
//! `config`'s, and `formats`'s for keyrings.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::confined;
use crate::config::{ConfigError, Profiles, ServeConfig, VolunteerConfig, VolunteerOptions};
use crate::formats::openpgp::{Keyring, KeyringError, MAX_KEYRING_BYTES};

/// Which file is wrong, and why.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("in {path}")]
    Invalid { path: PathBuf, source: ConfigError },
    #[error("cannot read the keyring {path} (install it, or correct `keyring`)")]
    ReadKeyring { path: PathBuf, source: std::io::Error },
    #[error("the keyring {path} is unusable")]
    Keyring { path: PathBuf, source: KeyringError },
    #[error(
        "cannot read the token from {path}: get one from the server's administrator (`manyhands token issue`) and \
         pass it with --token-file"
    )]
    ReadToken { path: PathBuf, source: std::io::Error },
    #[error("{path} holds no token")]
    NoToken { path: PathBuf },
}

/// A server's configuration, with the built-in profiles and those of its `distros_dir`.
pub fn read_serve_config(path: &Path) -> Result<ServeConfig, ConfigFileError> {
    let text = read(path)?;
    let invalid = |source| ConfigFileError::Invalid { path: path.to_owned(), source };
    let mut profiles = Profiles::built_in().map_err(invalid)?;
    if let Some(dir) = ServeConfig::distros_dir(&text).map_err(invalid)? {
        add_profiles(&mut profiles, &dir)?;
    }
    ServeConfig::parse(&text, &profiles).map_err(invalid)
}

/// A volunteer's configuration file, not yet merged with flags.
pub fn read_volunteer_options(path: &Path) -> Result<VolunteerOptions, ConfigFileError> {
    let invalid = |source| ConfigFileError::Invalid { path: path.to_owned(), source };
    VolunteerOptions::parse(&read(path)?).map_err(invalid)
}

/// Whether a configuration file is a volunteer's: there `server` is a URL, and a server's is a table.
pub fn is_of_volunteer(path: &Path) -> Result<bool, ConfigFileError> {
    let invalid = |source| ConfigFileError::Invalid { path: path.to_owned(), source };
    VolunteerOptions::describes(&read(path)?).map_err(invalid)
}

/// The token of a volunteer: from its file, unless the configuration has it.
pub fn read_token(config: &VolunteerConfig) -> Result<String, ConfigFileError> {
    if let Some(token) = &config.token {
        return Ok(token.trim().to_owned());
    }
    let path = config.token_file.clone().unwrap_or_else(|| config.store.join("token"));
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) => return Err(ConfigFileError::ReadToken { source: confined::explain(&path, e), path }),
    };
    let token = text.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(ConfigFileError::NoToken { path });
    }
    Ok(token.to_owned())
}

/// The certificates of all these files together; `None` if there are no files, so that no signature is to
/// be checked.
pub fn read_keyring(paths: &[PathBuf]) -> Result<Option<Keyring>, ConfigFileError> {
    let mut all: Option<Keyring> = None;
    for path in paths {
        let keyring = read_keyring_file(path)?;
        match &mut all {
            None => all = Some(keyring),
            Some(all) => all.merge(keyring),
        }
    }
    Ok(all)
}

fn read_keyring_file(path: &Path) -> Result<Keyring, ConfigFileError> {
    let unreadable =
        |e| ConfigFileError::ReadKeyring { path: path.to_owned(), source: confined::explain(path, e) };
    let mut bytes = Vec::new();
    // One byte more than a keyring may have, which it is then refused for.
    let limit = MAX_KEYRING_BYTES as u64 + 1;
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(unreadable)?;
    Keyring::parse(&bytes).map_err(|source| ConfigFileError::Keyring { path: path.to_owned(), source })
}

fn add_profiles(profiles: &mut Profiles, dir: &Path) -> Result<(), ConfigFileError> {
    let unreadable = |e| ConfigFileError::Read { path: dir.to_owned(), source: confined::explain(dir, e) };
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|e| e == "toml")
            && let Some(name) = path.file_stem().and_then(|name| name.to_str())
        {
            let invalid = |source| ConfigFileError::Invalid { path: path.clone(), source };
            profiles.add(name, &read(&path)?).map_err(invalid)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, ConfigFileError> {
    let read = fs::read_to_string(path).map_err(|e| confined::explain(path, e));
    read.map_err(|source| ConfigFileError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("test-repos/keys/test.gpg")
    }

    #[test]
    fn keyrings_of_several_files_are_one() {
        assert!(read_keyring(&[]).expect("no file").is_none());
        let both = read_keyring(&[key(), key().with_extension("asc")]).expect("readable").expect("two files");
        assert_eq!(both.len(), 1);
    }

    #[test]
    fn a_keyring_that_is_none_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let (empty, absent) = (dir.path().join("empty.gpg"), dir.path().join("absent.gpg"));
        fs::write(&empty, "").expect("written");
        for (path, want) in [(empty, "unusable"), (absent, "cannot read"), (dir.path().into(), "cannot read")]
        {
            let error = read_keyring(&[key(), path.clone()]).expect_err(want).to_string();
            assert!(error.contains(want) && error.contains(&path.display().to_string()), "{error}");
        }
    }
}
