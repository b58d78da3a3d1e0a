//! Configuration files from disk: the text and the profiles that it names. What they mean is `config`'s.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{ConfigError, Profiles, ServeConfig, VolunteerOptions};

/// Which file is wrong, and why.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("in {path}")]
    Invalid { path: PathBuf, source: ConfigError },
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

fn add_profiles(profiles: &mut Profiles, dir: &Path) -> Result<(), ConfigFileError> {
    let unreadable = |source| ConfigFileError::Read { path: dir.to_owned(), source };
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
    fs::read_to_string(path).map_err(|source| ConfigFileError::Read { path: path.to_owned(), source })
}
