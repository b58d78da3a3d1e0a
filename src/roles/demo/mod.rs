//! `manyhands demo`: a server over the test repositories and three volunteers, on loopback addresses of
//! their own, as processes of this same program. It fetches with the clients that it finds ([`trial`]), and shows the
//! lines with which apt, dnf and zypper do the same ([`clients`]).

mod clients;
mod trial;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use self::clients::{Client, Places};
use crate::io::shutdown::{DRAIN, Shutdown};

const VOLUNTEERS: u8 = 3;
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The repositories of the demo: name and profile.
const REPOS: [(&str, &str); 7] = [
    ("alder", "generic-deb"),
    ("birch", "generic-deb"),
    ("flat", "generic-deb"),
    ("cedar", "generic-rpm"),
    ("dogwood", "generic-rpm"),
    ("elder", "generic-rpm"),
    ("images", "generic-files"),
];

/// Runs until a signal comes.
pub async fn run(repos: &Path, listen: SocketAddr) -> anyhow::Result<()> {
    let repos = repos.canonicalize().with_context(|| {
        format!(
            "cannot find the test repositories at {}: run this in the source tree or set --repos",
            repos.display()
        )
    })?;
    let mut shutdown = Shutdown::on_signals(DRAIN)?;
    let dir = scratch_dir()?;
    let demo = Demo { program: std::env::current_exe()?, dir: dir.clone(), repos };
    let outcome = demo.run(listen, &mut shutdown).await;
    std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    outcome
}

fn scratch_dir() -> anyhow::Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("manyhands-demo-{}", std::process::id()));
    std::fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

struct Demo {
    program: PathBuf,
    dir: PathBuf,
    repos: PathBuf,
}

impl Demo {
    async fn run(&self, listen: SocketAddr, shutdown: &mut Shutdown) -> anyhow::Result<()> {
        let config = self.dir.join("serve.toml");
        std::fs::write(&config, self.server_config(listen))?;
        let mut processes = Vec::new();
        let (server, ready) = self.start("server", &["serve", "--config", text(&config)?]).await?;
        processes.push(server);
        let field =
            |name: &str| ready["fields"][name].as_str().map(str::to_owned).context("no address in the log");
        let (url, admin) = (format!("http://{}", field("listen")?), format!("http://{}", field("admin")?));
        let token =
            Command::new(&self.program).args(["token", "issue", "--config", text(&config)?]).output().await?;
        anyhow::ensure!(token.status.success(), "no token: {}", String::from_utf8_lossy(&token.stderr));
        let token_file = self.dir.join("token");
        std::fs::write(&token_file, token.stdout)?;
        for n in 0..VOLUNTEERS {
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2 + n)), 0).to_string();
            let (name, store) =
                (format!("volunteer-{}", n + 1), self.dir.join(format!("volunteer-{}", n + 1)));
            let arguments = [
                "volunteer",
                "--server",
                &url,
                "--store",
                text(&store)?,
                "--listen",
                &address,
                "--token-file",
                text(&token_file)?,
                "--id",
                &name,
            ];
            processes.push(self.start(&name, &arguments).await?.0);
        }
        let tried = tokio::select! {
            tried = self.show(&url, &admin) => Some(tried),
            _ = shutdown.begun() => None,
        };
        if let Some(Ok(())) = tried {
            shutdown.begun().await;
        }
        stop(processes).await;
        tried.unwrap_or(Ok(()))
    }

    /// Fetches with the clients that are here, and says how to do the same.
    async fn show(&self, url: &str, admin: &str) -> anyhow::Result<()> {
        let key = self.repos.join("keys/test.asc");
        let clients = clients::all(Places { url, dir: text(&self.dir)?, key: text(&key)? });
        let last = VOLUNTEERS + 1;
        let begun = format!(
            "A server at {url} and {VOLUNTEERS} volunteers on 127.0.0.2 to 127.0.0.{last} are running.\n\n"
        );
        std::io::stdout().write_all(begun.as_bytes())?;
        trial::run(admin, &self.dir, &clients).await?;
        std::io::stdout().write_all(self.hints(&clients, admin)?.as_bytes())?;
        Ok(())
    }

    fn server_config(&self, listen: SocketAddr) -> String {
        let mut toml = format!(
            "[server]\nlisten = [\"{listen}\"]\nadmin = \"{}:0\"\nstate_dir = {:?}\n[cache]\nmax_size = \"1GiB\"\n",
            listen.ip(),
            self.dir.join("server"),
        );
        for (name, distro) in REPOS {
            // Writing to a String cannot fail.
            let _ = write!(
                toml,
                "[[repo]]\nname = \"{name}\"\ndistro = \"{distro}\"\ntree = {:?}\n",
                self.repos.join("t1").join(name)
            );
        }
        toml
    }

    /// Starts one process and waits until it says that it is ready; its log goes to a file.
    async fn start(&self, name: &str, arguments: &[&str]) -> anyhow::Result<(Child, serde_json::Value)> {
        let mut child = Command::new(&self.program)
            .args(arguments)
            .args(["--log-format", "json", "--log", "info,manyhands=debug"])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            // The terminal's Ctrl-C is for the demo, which then stops them in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let stderr = child.stderr.take().context("no log")?;
        let mut lines = BufReader::new(stderr).lines();
        let mut log = std::fs::File::create(self.dir.join(format!("{name}.log")))?;
        let mut seen = String::new();
        let find = async {
            while let Some(line) = lines.next_line().await? {
                writeln!(log, "{line}")?;
                let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                if value["fields"]["message"] == "ready" {
                    return Ok(value);
                }
                seen = line;
            }
            anyhow::bail!("the {name} did not start: {seen}")
        };
        let ready = tokio::time::timeout(START_TIMEOUT, find).await;
        let ready = ready
            .with_context(|| format!("the {name} is not ready after {} s", START_TIMEOUT.as_secs()))??;
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                // A log that cannot be written costs nothing but the log.
                let _ = writeln!(log, "{line}");
            }
        });
        Ok((child, ready))
    }

    fn hints(&self, clients: &[Client], admin: &str) -> anyhow::Result<String> {
        let (dir, program) = (text(&self.dir)?, text(&self.program)?);
        let mut out = format!(
            "\nPaste these lines into another terminal to do the same: each client begins with empty caches. They use\n\
             private folders below {dir}, so that nothing of this system is touched.\n\
             A client that asks again within a minute may not have got its file: it is sent elsewhere, or gets it from\n\
             the server. So wait a minute between two runs of the same client.\n"
        );
        for Client { name, lines } in clients {
            let _ = writeln!(out, "\n{name}:");
            lines.iter().for_each(|line| _ = writeln!(out, "    $ {line}"));
        }
        let _ = writeln!(out, "\nstatus:\n    $ {program} status --admin {admin}");
        let _ = writeln!(out, "\nLogs are in {dir}/*.log. Ctrl-C stops everything and removes that folder.");
        Ok(out)
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// Asks all to drain at once, and waits for them.
async fn stop(processes: Vec<Child>) {
    let mut ending = tokio::task::JoinSet::new();
    for mut process in processes {
        let id = process.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(rustix::process::Pid::from_raw) {
            // One that has ended already needs no signal.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        ending.spawn(async move {
            if tokio::time::timeout(STOP_TIMEOUT, process.wait()).await.is_err() {
                let _ = process.kill().await;
            }
        });
    }
    while ending.join_next().await.is_some() {}
}
