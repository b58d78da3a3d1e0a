//! How to point clients at a repository, from its configuration alone: shown by `manyhands check`, and before
//! anything is loaded.

use super::profile::Layout;
use super::serve::RepoConfig;

impl RepoConfig {
    /// The lines that a person pastes to point a client here.
    pub fn client_hint(&self, url: &str) -> String {
        let base = format!("{url}/{}", self.name);
        match self.profile.layout {
            Layout::Deb => {
                let suite = self.profile.suites.first().map_or("SUITE", String::as_str);
                if let Some(dir) = flat_dir(suite) {
                    return format!("apt: deb {base}/{dir} ./");
                }
                // `ubuntu/dists/noble` is the suite `noble` of an archive in `ubuntu/`.
                let (above, suite) = suite.rsplit_once("dists/").unwrap_or(("", suite));
                let base = format!("{base}/{above}");
                let base = base.trim_end_matches('/');
                let components = match self.profile.components.as_slice() {
                    [] => "main".to_owned(),
                    some => some.join(" "),
                };
                format!("apt: deb {base} {suite} {components}")
            }
            Layout::RpmMd => {
                let unit = self.profile.suites.first().map_or("", String::as_str).trim_matches('/');
                format!("dnf, zypper: baseurl={base}/{}", if unit == "." { "" } else { unit })
            }
            Layout::Files => format!("wget, curl: {base}/"),
        }
    }
}

/// The folder of a flat deb repository, with a final slash unless it is the top; `None` if the suite stands below
/// `dists/`. The forms are those of sources.list(5): `.` or empty for the top, else a final slash.
fn flat_dir(suite: &str) -> Option<String> {
    match suite.trim_matches('/') {
        "" | "." => Some(String::new()),
        dir => suite.ends_with('/').then(|| format!("{dir}/")),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Profiles, ServeConfig};

    #[test]
    fn hints_are_lines_that_clients_take() {
        let profiles = Profiles::built_in().expect("they are valid");
        for (distro, suites, want) in [
            ("generic-deb", "['.']", "apt: deb http://m/r/ ./"),
            ("generic-deb", "['']", "apt: deb http://m/r/ ./"),
            ("generic-deb", "['./']", "apt: deb http://m/r/ ./"),
            ("generic-deb", "['nightly/x86/']", "apt: deb http://m/r/nightly/x86/ ./"),
            ("generic-deb", "['stable']", "apt: deb http://m/r stable main"),
            ("generic-deb", "['dists/stable/updates']", "apt: deb http://m/r stable/updates main"),
            ("generic-deb", "['ubuntu/dists/noble']", "apt: deb http://m/r/ubuntu noble main"),
            ("generic-rpm", "['']", "dnf, zypper: baseurl=http://m/r/"),
            ("generic-rpm", "['.']", "dnf, zypper: baseurl=http://m/r/"),
            ("generic-rpm", "['9/os/']", "dnf, zypper: baseurl=http://m/r/9/os"),
        ] {
            let text = format!(
                "[server]\nlisten=['127.0.0.1:80']\nadmin='127.0.0.1:81'\nstate_dir='/s'\n\
                 [[repo]]\nname='r'\ndistro='{distro}'\ntree='/t'\nsuites={suites}"
            );
            let config = ServeConfig::parse(&text, &profiles).expect(&text);
            assert_eq!(config.repos[0].client_hint("http://m"), want, "{suites}");
        }
    }
}
