//! `manyhands demo`: a server over the test repositories and three volunteers, on loopback addresses of
//! their own, as processes of this same program; and the lines with which apt, dnf and zypper try them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::io::shutdown::{DRAIN, Shutdown};

const VOLUNTEERS: u8 = 3;
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The repositories of the demo: name, profile, and for deb the suite and components.
const REPOS: [(&str, &str, &str); 7] = [
    ("alder", "generic-deb", "stable main contrib"),
    ("birch", "generic-deb", "focus universe"),
    ("flat", "generic-deb", "./"),
    ("cedar", "generic-rpm", ""),
    ("dogwood", "generic-rpm", ""),
    ("elder", "generic-rpm", ""),
    ("images", "generic-files", ""),
];

/// Runs until a signal comes.
pub async fn run(repos: &Path, listen: SocketAddr) -> anyhow::Result<()> {
    let repos = repos.canonicalize().with_context(|| {
        format!(
            "cannot find the test repositories at {}: run this in the source folder or give --repos",
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
        std::io::stdout().write_all(self.hints(&url, &admin)?.as_bytes())?;
        shutdown.begun().await;
        stop(processes).await;
        Ok(())
    }

    fn server_config(&self, listen: SocketAddr) -> String {
        let mut toml = format!(
            "[server]\nlisten = [\"{listen}\"]\nadmin = \"{}:0\"\nstate_dir = {:?}\n[cache]\nmax_size = \"1GiB\"\n",
            listen.ip(),
            self.dir.join("server"),
        );
        for (name, distro, _) in REPOS {
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

    fn hints(&self, url: &str, admin: &str) -> anyhow::Result<String> {
        let (dir, key) = (text(&self.dir)?, self.repos.join("keys/test.asc"));
        let key = text(&key)?;
        let program = text(&self.program)?;
        let mut out = format!(
            "\nA server at {url} and {VOLUNTEERS} volunteers on 127.0.0.2 to 127.0.0.{} are running.\n\
             Paste these lines into another terminal. They use private folders below {dir},\n\
             so that nothing of this system is touched. The first run comes from the server, later ones\n\
             come from the volunteers.\n",
            VOLUNTEERS + 1
        );
        let (_, _, suite) = REPOS[0];
        let apt = format!(
            "apt-get -o Dir::Etc::sourcelist={dir}/apt/sources.list -o Dir::Etc::sourceparts=/dev/null \
             -o Dir::State={dir}/apt/state -o Dir::State::status={dir}/apt/status -o Dir::Cache={dir}/apt/cache \
             -o Dir::Log={dir}/apt -o APT::Sandbox::User=root -o Debug::NoLocking=1 \
             -o Acquire::http::Proxy=DIRECT -o Acquire::http::Proxy-Auto-Detect="
        );
        let lines: [(&str, Vec<String>); 4] = [
            (
                "apt",
                vec![
                    format!(
                        "mkdir -p {dir}/apt/state/lists/partial {dir}/apt/cache/archives/partial && touch {dir}/apt/status"
                    ),
                    format!("echo 'deb [signed-by={key}] {url}/alder {suite}' > {dir}/apt/sources.list"),
                    format!("{apt} update"),
                    format!(
                        "cd {dir}/apt && {apt} download hands-data hands-common hands-tools libhands++-dev"
                    ),
                ],
            ),
            (
                "dnf",
                vec![format!(
                    "dnf -y --installroot={dir}/dnf --releasever=1 --forcearch=x86_64 --setopt=reposdir=/dev/null \
                 --setopt=cachedir={dir}/dnf-cache --setopt=varsdir=/dev/null --setopt=pluginpath=/nonexistent \
                 --repofrompath=os,{url}/cedar/os --repofrompath=updates,{url}/cedar/updates \
                 --setopt='*.gpgcheck=1' --setopt='*.repo_gpgcheck=1' --setopt='*.gpgkey=file://{key}' \
                 install hands-common hands-data hands-tools"
                )],
            ),
            (
                "zypper",
                vec![
                    format!(
                        "mkdir -p {dir}/zypper/etc/zypp/repos.d && rpm --root {dir}/zypper --import {key}"
                    ),
                    format!(
                        "printf '[dogwood]\\nbaseurl={url}/dogwood\\ntype=rpm-md\\nenabled=1\\ngpgcheck=1\\nrepo_gpgcheck=1\\n\
                     pkg_gpgcheck=1\\ngpgkey=file://{key}\\n' > {dir}/zypper/etc/zypp/repos.d/dogwood.repo"
                    ),
                    format!("zypper --root {dir}/zypper --non-interactive refresh"),
                    format!(
                        "zypper --root {dir}/zypper --non-interactive install --no-recommends hands-common hands-tools"
                    ),
                ],
            ),
            ("status", vec![format!("{program} status --admin {admin}")]),
        ];
        for (client, commands) in lines {
            let _ = writeln!(out, "\n{client}:");
            for command in commands {
                let _ = writeln!(out, "    $ {command}");
            }
        }
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
