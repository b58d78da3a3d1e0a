//! `manyhands check`: validates the configuration of a server or of a volunteer and says what it would do.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::config::{ConfigError, FailoverConfig, Origin, RepoConfig, ServeConfig};
use crate::formats::openpgp::Keyring;
use crate::formats::zone::Place;
use crate::io::access::{self, Reached};
use crate::io::clock;
use crate::io::config_file::{is_of_volunteer, read_keyring, read_serve_config, read_volunteer_options};

mod tree;
mod volunteer;

/// Prints a summary, unless only the verdict is wanted; or fails with the error.
pub fn run(path: &Path, is_quiet: bool) -> anyhow::Result<()> {
    let (summary, problems) = if is_of_volunteer(path)? {
        volunteer::describe(&read_volunteer_options(path)?.validate()?)?
    } else {
        describe_server(&read_serve_config(path)?)?
    };
    if !problems.is_empty() {
        return Err(
            ConfigError::Value { key: path.display().to_string(), problem: problems.join("; ") }.into()
        );
    }
    if !is_quiet {
        write!(std::io::stdout().lock(), "{} is valid\n{summary}", path.display())?;
    }
    Ok(())
}

/// What would be served, and what keeps it from that.
fn describe_server(config: &ServeConfig) -> Result<(String, Vec<String>), std::fmt::Error> {
    let mut out = String::new();
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    writeln!(out, "listen     {}", listen.join(", "))?;
    writeln!(out, "admin      {}", config.admin)?;
    writeln!(out, "state_dir  {}", config.state_dir.display())?;
    writeln!(
        out,
        "cache      up to {}, {} of the disk left free",
        config.cache.max_size, config.cache.min_free
    )?;
    for rule in &config.proxy.connect {
        writeln!(out, "tunnels    to {rule}")?;
    }
    if let Some(failover) = &config.failover {
        write!(out, "{}", describe_zone(failover))?;
    }
    let mut problems = Vec::new();
    for repo in &config.repos {
        writeln!(out, "\n/{}/  ({})", repo.name, repo.profile.description)?;
        match &repo.origin {
            Origin::Tree(tree) => {
                writeln!(out, "  tree      {}", tree.display())?;
                let found = tree::look(repo, tree);
                found.warnings.iter().try_for_each(|warning| writeln!(out, "  warning   {warning}"))?;
                problems.extend(found.problems);
            }
            Origin::Upstream(urls) => match access::read(repo, clock::now()) {
                Ok(reached) => write!(out, "{}", describe_upstreams(repo, urls, &reached))?,
                Err(e) => problems.push(format!("repo {:?}: {:#}", repo.name, anyhow::Error::from(e))),
            },
        }
        repo.aliases.iter().try_for_each(|url| writeln!(out, "  alias     {url}"))?;
        let suites = if repo.profile.suites.is_empty() {
            "as clients ask".to_owned()
        } else {
            repo.profile.suites.join(", ")
        };
        writeln!(out, "  suites    {suites}")?;
        match read_keyring(&repo.keyring) {
            Ok(keyring) => writeln!(out, "  keyring   {}", describe(&repo.keyring, keyring.as_ref()))?,
            Err(e) => problems.push(format!("{:#}", anyhow::Error::from(e))),
        }
        writeln!(out, "  clients   {}", repo.client_hint(&config.shown_url()))?;
    }
    Ok((out, problems))
}

/// The upstreams, who we are there and where they may lead.
fn describe_upstreams(repo: &RepoConfig, urls: &[String], reached: &Reached) -> String {
    let mut text = String::new();
    for (url, has_credentials) in urls.iter().zip(&reached.has_credentials) {
        let how = if *has_credentials { "  (with a user name and a password)" } else { "" };
        let _ = writeln!(text, "  upstream  {url}{how}");
    }
    if let Some(client) = &repo.access.client {
        let _ = writeln!(text, "  as        {}", client.cert.display());
    }
    if let Some(path) = &repo.access.ca_file {
        let _ = writeln!(text, "  by        the authorities in {}", path.display());
    }
    for place in &repo.access.redirect_to {
        let _ = writeln!(text, "  leads to  {place}");
    }
    for warning in &reached.warnings {
        let _ = writeln!(text, "  warning   {warning}");
    }
    text
}

/// What the zone's DNS answers, for a made-up volunteer.
fn describe_zone(failover: &FailoverConfig) -> String {
    let all: Vec<String> = failover.dns_listen.iter().map(ToString::to_string).collect();
    let mut text = format!("failover   {}, DNS on {}\n", failover.zone.name(), all.join(", "));
    // An address for documentation (RFC 5737).
    if let (Ok(id), Some(place)) = ("v1".parse(), Place::of("http://192.0.2.7:8090")) {
        text.push_str("           answers, with a volunteer v1 at 192.0.2.7:8090:\n");
        for line in failover.zone.shown(&id, &place) {
            let _ = writeln!(text, "             {line}");
        }
    }
    if let Some(problem) = failover.problem() {
        let _ = writeln!(text, "           {problem}");
    }
    text
}

fn describe(paths: &[PathBuf], keyring: Option<&Keyring>) -> String {
    let Some(keyring) = keyring else { return "none: signatures are not checked".to_owned() };
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let plural = if keyring.len() == 1 { "" } else { "s" };
    let mut text = format!("{} ({} certificate{plural}", paths.join(", "), keyring.len());
    if let Some(problem) = &keyring.skipped.first {
        let _ = write!(text, ", {} left out: {problem}", keyring.skipped.count);
    }
    text + ")"
}
