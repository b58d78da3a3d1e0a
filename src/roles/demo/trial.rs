//! What the demo fetches for itself: with each client that this machine has, twice with empty caches. The first time
//! packages come from the server, which then has volunteers copy them; the second time they come from those.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use http::HeaderMap;
use tokio::process::Command;

use super::clients::Client;
use crate::formats::status::{STATUS_PATH, Status};
use crate::io::upstream::{Upstream, whole};

/// For one line of a client.
const LINE_TIMEOUT: Duration = Duration::from_secs(120);
/// Time for volunteers to copy what was requested.
const COPY_TIMEOUT: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const MAX_STATUS: u64 = 8 << 20;

/// Packages that clients got, and those of them that came from volunteers.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    all: u64,
    from_volunteers: u64,
}

/// A server to look at.
struct Watched<'a> {
    client: Upstream,
    admin: &'a str,
}

/// Runs the trial and reports it as it goes.
pub(super) async fn run(admin: &str, dir: &Path, clients: &[Client]) -> anyhow::Result<()> {
    let watched = Watched { client: Upstream::new()?, admin };
    let (there, absent): (Vec<&Client>, Vec<&Client>) =
        clients.iter().partition(|client| is_there(client.name));
    for client in absent {
        tell(&format!("{:<8} is not on this machine\n", client.name))?;
    }
    let mut last = Count::default();
    for round in ["at first", "once more"] {
        for client in &there {
            let before = watched.count().await?;
            let failure = fetch(client, dir).await;
            let count = watched.count().await?.since(before);
            let outcome = match failure {
                None => count.told(),
                Some(why) => format!("failed: {why}"),
            };
            tell(&format!("{:<8} with empty caches, {round}: {outcome}\n", client.name))?;
            if round == "once more" {
                last = last.and(count);
            }
            watched.wait_copied().await?;
        }
    }
    if !there.is_empty() {
        tell(&format!("{} when their copies were there.\n", last.told()))?;
    }
    Ok(())
}

fn tell(text: &str) -> std::io::Result<()> {
    std::io::stdout().write_all(text.as_bytes())
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Runs a client's lines; says why it failed, if it did.
async fn fetch(client: &Client, dir: &Path) -> Option<String> {
    let log = dir.join(format!("{}.log", client.name));
    for line in &client.lines {
        let ended = async {
            let log = File::options().create(true).append(true).open(&log)?;
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(line).current_dir(dir).stdin(Stdio::null()).kill_on_drop(true);
            shell.stdout(log.try_clone()?).stderr(log).status().await
        };
        let status = match tokio::time::timeout(LINE_TIMEOUT, ended).await {
            Err(_) => {
                return Some(format!("not done after {} s, see {}", LINE_TIMEOUT.as_secs(), log.display()));
            }
            Ok(Err(e)) => return Some(e.to_string()),
            Ok(Ok(status)) => status,
        };
        if !status.success() {
            return Some(format!("{status}, see {}", log.display()));
        }
    }
    None
}

impl Count {
    fn since(self, before: Self) -> Self {
        Self { all: self.all - before.all, from_volunteers: self.from_volunteers - before.from_volunteers }
    }

    fn and(self, other: Self) -> Self {
        Self { all: self.all + other.all, from_volunteers: self.from_volunteers + other.from_volunteers }
    }

    fn told(self) -> String {
        format!("{} of {} packages came from volunteers", self.from_volunteers, self.all)
    }
}

impl Watched<'_> {
    async fn status(&self) -> anyhow::Result<Status> {
        let reply = self.client.probe(&format!("{}{STATUS_PATH}", self.admin), HeaderMap::new()).await?;
        Ok(serde_json::from_slice(&whole(reply, MAX_STATUS).await?)?)
    }

    async fn count(&self) -> anyhow::Result<Count> {
        let offload = self.status().await?.offload;
        let from_volunteers = offload.redirects;
        Ok(Count { all: from_volunteers + offload.served_requests, from_volunteers })
    }

    /// Waits until no volunteer has anything left to copy.
    async fn wait_copied(&self) -> anyhow::Result<()> {
        let until = tokio::time::Instant::now() + COPY_TIMEOUT;
        while tokio::time::Instant::now() < until {
            let status = self.status().await?;
            let holds = status.volunteers.iter().any(|volunteer| volunteer.holdings > 0);
            if holds && status.volunteers.iter().all(|volunteer| volunteer.orders == 0) {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}
