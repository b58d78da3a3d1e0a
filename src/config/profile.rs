//! Distribution profiles: a description of a distribution's archive, as data.
//!
//! The built-in ones are the files of `distros/`; an administrator adds more with `distros_dir`. No code
//! asks for a distribution by name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, absolute, base_url, from_toml, one_or_many};
use crate::formats::credentials::split_url;

include!(concat!(env!("OUT_DIR"), "/profiles.rs"));

/// The format of a repository's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Layout {
    /// Release, Packages, Sources under `dists/` or flat.
    #[serde(rename = "deb")]
    Deb,
    /// `repodata/repomd.xml`.
    #[serde(rename = "rpm-md")]
    RpmMd,
    /// Only files with checksum files beside them: images.
    #[serde(rename = "files")]
    Files,
}

/// Facts about one distribution.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// One line for people.
    pub description: String,
    pub layout: Layout,
    /// Where packages come from when the configuration names neither `upstream` nor `tree`.
    #[serde(default)]
    pub upstream: Vec<String>,
    /// What is read at startup. deb: names below `dists/`, or a directory with a final `/` for a flat
    /// repository; rpm-md: directories that hold `repodata/`. Others are learned from requests.
    #[serde(default)]
    pub suites: Vec<String>,
    /// deb: components whose package lists are read at startup; empty means all.
    #[serde(default)]
    pub components: Vec<String>,
    /// deb: architectures whose package lists are read at startup, besides `all`; empty means all.
    #[serde(default)]
    pub architectures: Vec<String>,
    /// Names that end so never change once published.
    #[serde(default)]
    pub package_suffixes: Vec<String>,
    /// Files that list digests of their neighbours; one `*` matches any text.
    #[serde(default)]
    pub checksum_files: Vec<String>,
    /// Files of OpenPGP keys that sign the metadata, where the configuration names none; empty means that
    /// signatures are not checked. No built-in profile names one: the file may not be on this host.
    #[serde(default, deserialize_with = "one_or_many")]
    pub keyring: Vec<PathBuf>,
    /// deb: whether a suite whose `Valid-Until` has passed is refused. Archives that are no longer updated
    /// need `false`.
    #[serde(default = "yes")]
    pub check_valid_until: bool,
    /// Units, such as `dists/noble-security`, whose new generations never wait for copies on volunteers; `*` matches
    /// any text.
    #[serde(default)]
    pub ungated: Vec<String>,
}

fn yes() -> bool {
    true
}

impl Profile {
    fn parse(name: &str, text: &str) -> Result<Self, ConfigError> {
        let key = format!("distribution profile {name:?}");
        let profile: Self = from_toml(text).map_err(|e| ConfigError::value(&key, e.to_string()))?;
        for url in &profile.upstream {
            base_url(&key, url)?;
            if split_url(url).1.is_some() {
                let problem = "a profile cannot have passwords: put `upstream` into the [[repo]]";
                return Err(ConfigError::value(key, problem));
            }
        }
        absolute(&key, "keyring", &profile.keyring)?;
        Ok(profile)
    }

    /// Whether a file name is one of the checksum files.
    pub fn is_checksum_file(&self, file_name: &str) -> bool {
        self.checksum_files.iter().any(|pattern| match pattern.split_once('*') {
            None => pattern == file_name,
            Some((head, tail)) => {
                file_name.len() >= head.len() + tail.len()
                    && file_name.starts_with(head)
                    && file_name.ends_with(tail)
            }
        })
    }

    /// Whether a unit's new generations become visible at once.
    pub fn is_ungated(&self, unit: &str) -> bool {
        self.ungated.iter().any(|pattern| matches(pattern, unit))
    }

    pub fn is_package_name(&self, file_name: &str) -> bool {
        self.package_suffixes.iter().any(|suffix| file_name.ends_with(suffix.as_str()))
    }
}

/// Whether the text is the pattern, each of whose `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or("");
    for part in parts {
        // The first place leaves most for what follows.
        let Some((_, after)) = text.split_once(part) else { return false };
        text = after;
    }
    text.ends_with(tail)
}

/// All known profiles by name.
#[derive(Clone, Debug)]
pub struct Profiles(BTreeMap<String, Profile>);

impl Profiles {
    /// The profiles that are compiled in.
    pub fn built_in() -> Result<Self, ConfigError> {
        let parsed =
            BUILT_IN.iter().map(|(name, text)| Ok(((*name).to_owned(), Profile::parse(name, text)?)));
        parsed.collect::<Result<_, ConfigError>>().map(Self)
    }

    /// Adds one, or replaces the one of the same name.
    pub fn add(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let profile = Profile::parse(name, text)?;
        self.0.insert(name.to_owned(), profile);
        Ok(())
    }

    pub fn get(&self, name: &str) -> Result<&Profile, ConfigError> {
        self.0.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            ConfigError::value("distro", format!("no profile {name:?}; known: {}", known.join(", ")))
        })
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_profiles_are_valid() {
        let profiles = Profiles::built_in().expect("every file in distros/ parses");
        for name in ["generic-deb", "generic-rpm"] {
            assert!(profiles.get(name).is_ok(), "{name}");
        }
        let error = profiles.get("nosuch").expect_err("unknown").to_string();
        assert!(error.contains("generic-deb"), "{error}");
    }

    #[test]
    fn patterns_of_checksum_files() {
        let text = "description='x'\nlayout='files'\nchecksum_files=['SHA256SUMS','*-CHECKSUM','a*a']";
        let profile = Profile::parse("x", text).expect("valid");
        for (name, want) in [
            ("SHA256SUMS", true),
            ("SHA256SUMS.gpg", false),
            ("Fedora-Server-43-CHECKSUM", true),
            ("-CHECKSUM", true),
            ("CHECKSUM", false),
            ("a", false),
            ("aa", true),
        ] {
            assert_eq!(profile.is_checksum_file(name), want, "{name}");
        }
    }

    #[test]
    fn patterns_of_units_that_do_not_wait() {
        for (pattern, text, want) in [
            ("*-security*", "dists/noble-security", true),
            ("*-security*", "dists/noble-security/main", true),
            ("*-security*", "dists/noble", false),
            ("*", "./", true),
            ("dists/a", "dists/a", true),
            ("dists/a", "dists/ab", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("ab*b", "ab", false),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
        let profiles = Profiles::built_in().expect("every file in distros/ parses");
        for (profile, unit, want) in [
            ("ubuntu", "dists/noble-security", true),
            ("ubuntu", "dists/noble-updates", false),
            ("debian-security", "dists/trixie-security", true),
            ("fedora", "updates/43/Everything/x86_64", false),
        ] {
            assert_eq!(profiles.get(profile).expect("built in").is_ungated(unit), want, "{profile} {unit}");
        }
    }

    #[test]
    fn keyrings_are_absolute_paths() {
        let parse = |keyring: &str| {
            Profile::parse("x", &format!("description='x'\nlayout='deb'\n{keyring}")).map(|p| p.keyring)
        };
        assert!(parse("").expect("none").is_empty());
        assert_eq!(parse("keyring='/a.gpg'").expect("one"), [PathBuf::from("/a.gpg")]);
        assert_eq!(parse("keyring=['/a', '/b']").expect("two"), [PathBuf::from("/a"), "/b".into()]);
        for (keyring, want) in [("keyring='a.gpg'", "absolute"), ("keyring=1", "a path or a list of paths")] {
            let error = parse(keyring).expect_err(keyring).to_string();
            assert!(error.contains(want), "{keyring}: {error}");
        }
    }

    #[test]
    fn unknown_keys_are_errors() {
        let error = Profile::parse("x", "description='x'\nlayout='deb'\nsuite=['a']").expect_err("typo");
        assert!(error.to_string().contains("suite"), "{error}");
    }
}
