//! L5: the command line. Arguments to options; nothing else knows clap.

mod man;
mod markdown;

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::config::VolunteerOptions;
use crate::io::handover::Start;
use crate::model::{Rate, Size, VolunteerId};
use crate::roles;
use crate::roles::status::{Report, Shown};

/// Package-mirror proxy for apt and yum/dnf whose downloads are carried by volunteer servers.
///
/// The central server reads the metadata of deb and rpm repositories and serves it itself. It redirects package
/// requests to a volunteer that holds the package and is likely to deliver it soonest.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub log: LogOptions,
    #[command(subcommand)]
    pub command: Command,
}

/// Options for the log.
#[derive(Debug, Args)]
pub struct LogOptions {
    /// What to log: error, warn, info, debug, trace, or directives such as `info,manyhands::policy=debug`
    #[arg(long = "log", value_name = "LEVEL", env = "MANYHANDS_LOG", default_value = "info", global = true)]
    level: String,
    /// Format of the log on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Human, global = true)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Human,
    Json,
}

impl LogOptions {
    /// Sends the log to standard error from now on.
    pub fn start(&self) {
        // The OpenPGP crate logs the contents of upstreams' signatures; the refusal reports them once.
        let filter = format!("pgp=off,{}", self.level);
        let filter = tracing_subscriber::EnvFilter::try_new(filter).unwrap_or_else(|e| {
            let _ = writeln!(std::io::stderr(), "manyhands: --log {:?}: {e}; using info", self.level);
            tracing_subscriber::EnvFilter::new("pgp=off,info")
        });
        // The reader of the log may exit before us (`2>&1 | head`). Then only the lines are lost: by default, the
        // crate complains on the same closed pipe, and panics.
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .log_internal_errors(false);
        match self.log_format {
            LogFormat::Json => log.json().init(),
            LogFormat::Human => log.with_ansi(wants_colours()).with_target(false).init(),
        }
    }
}

/// Whether a log for people has colours: on a terminal, unless NO_COLOR says otherwise (no-color.org).
fn wants_colours() -> bool {
    let says_no = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !says_no
}

/// One per role.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the central server
    Serve {
        /// Configuration file
        #[arg(long, value_name = "FILE", default_value = "/etc/manyhands/serve.toml")]
        config: PathBuf,
    },
    /// Donate this machine's bandwidth and disk to a server
    Volunteer(Box<VolunteerArgs>),
    /// Check local files against what the server publishes
    Verify {
        /// Base URL of the server
        #[arg(long, value_name = "URL")]
        server: String,
        /// Print one JSON object per file
        #[arg(long)]
        json: bool,
        /// Files, or folders whose files are checked
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// Issue, list or revoke the tokens that volunteers join with
    #[command(subcommand)]
    Token(TokenCommand),
    /// Show the status of a running server or volunteer
    Status {
        /// Address of its status API: a URL, or HOST:PORT [default: http://127.0.0.1:8081]
        #[arg(long, value_name = "URL", conflicts_with = "config")]
        admin: Option<String>,
        /// Its configuration file, which has the address
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print the whole report as JSON
        #[arg(long)]
        json: bool,
        /// Show which files are identical within and between repositories, instead of the status
        #[arg(long)]
        dedup: bool,
        /// Refresh every two seconds
        #[arg(long)]
        watch: bool,
        /// Explain where a client's request for a package would go now, and why: an IP address, and a path
        /// such as /debian/pool/main/h/hello/hello_2.10-3_amd64.deb
        #[arg(long, num_args = 2, value_names = ["CLIENT", "PATH"], conflicts_with = "dedup")]
        why: Option<Vec<String>>,
        /// With --why: the client can come back, or has another URL, if its volunteer fails (dnf, lists)
        #[arg(long, requires = "why")]
        can_return: bool,
    },
    /// Validate the configuration of a server or a volunteer and say what it would do
    Check {
        /// Configuration file
        #[arg(long, value_name = "FILE", default_value = "/etc/manyhands/serve.toml")]
        config: PathBuf,
        /// Print only what is wrong
        #[arg(long)]
        quiet: bool,
    },
    /// Play a scenario with simulated clients and volunteers, using the server's own policy code
    Simulate(SimulateArgs),
    /// Run a server and three volunteers on loopback over test repositories
    Demo {
        /// Folder with the test repositories
        #[arg(long, value_name = "DIR", default_value = "test-repos")]
        repos: PathBuf,
        /// Address of the server
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
        listen: std::net::SocketAddr,
    },
    /// Write the man pages to a folder
    #[command(hide = true)]
    Man { dir: PathBuf },
    /// Print a shell's completion script
    #[command(hide = true)]
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// Scenario file
    scenario: PathBuf,
    /// Override a key of the scenario, such as duration=1min; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    changes: Vec<String>,
    /// First seed; the same seed gives the same output
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u32,
    /// Number of seeds; with more than one, figures have 95 % confidence intervals
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Number of parallel runs [default: number of processors]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Write all figures and curves as JSON; - writes them to standard output, in place of the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write an HTML page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Exit with 1 if a target of the scenario is missed
    #[arg(long)]
    check: bool,
    /// Show every report about flash crowds
    #[arg(long)]
    verbose: bool,
}

impl SimulateArgs {
    fn options(self) -> roles::simulate::Options {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        roles::simulate::Options {
            scenario: self.scenario,
            changes: self.changes,
            seed: u64::from(self.seed),
            seeds: self.seeds,
            jobs: self.jobs.unwrap_or_else(processors),
            json: self.json,
            html: self.html,
            check: self.check,
            verbose: self.verbose,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Print a new token, and nothing else, on standard output
    Issue {
        /// Configuration file of the server
        #[arg(long, value_name = "FILE", default_value = "/etc/manyhands/serve.toml")]
        config: PathBuf,
        /// Note on who the token is for
        #[arg(long, default_value = "")]
        note: String,
    },
    /// List tokens, without their secrets
    List {
        /// Configuration file of the server
        #[arg(long, value_name = "FILE", default_value = "/etc/manyhands/serve.toml")]
        config: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke a token; its volunteers are disconnected within seconds
    Revoke {
        /// Configuration file of the server
        #[arg(long, value_name = "FILE", default_value = "/etc/manyhands/serve.toml")]
        config: PathBuf,
        /// The token's id, as `list` shows it
        id: String,
    },
}

/// Flags override the file.
#[derive(Debug, Args)]
pub struct VolunteerArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Base URL of the server
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Folder of the blob store
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Address for clients [default: 0.0.0.0:8090]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Address of the status API, such as 127.0.0.1:8091, for `manyhands status --admin` [default: none]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// Upload rate across all downloads: in bytes, such as 50MiB/s (1024) or 50MB/s (1000), or in bits, such as
    /// 400Mbit/s [default: 50MiB/s]
    #[arg(long, value_name = "RATE")]
    donate: Option<Rate>,
    /// Size limit of the store, such as 500GiB (1024) or 500GB (1000) [default: 100GiB]
    #[arg(long, value_name = "SIZE")]
    max_size: Option<Size>,
    /// An existing mirror tree to serve in place; may be repeated
    #[arg(long, value_name = "TREE")]
    adopt: Vec<PathBuf>,
    /// File that holds the token [default: token in the store folder]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Name shown to operators [default: the host name and a random suffix]
    #[arg(long, value_name = "NAME")]
    id: Option<VolunteerId>,
    /// Base URL that clients can reach, if it differs from what the server sees
    #[arg(long, value_name = "URL")]
    advertise: Option<String>,
}

impl VolunteerArgs {
    fn options(self) -> roles::volunteer::Options {
        let flags = VolunteerOptions {
            server: self.server,
            listen: self.listen,
            admin: self.admin,
            store: self.store,
            max_size: self.max_size,
            min_free: None,
            scrub_days: None,
            donate: self.donate,
            adopt: self.adopt,
            token: None,
            token_file: self.token_file,
            id: self.id,
            advertise: self.advertise,
            max_connections: None,
            clients: None,
            volatile: None,
        };
        roles::volunteer::Options { file: self.config, flags }
    }
}

impl Command {
    /// Runs the role to its end.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            // Sockets are taken before the runtime starts its threads.
            Self::Serve { config } => {
                let Some(start) = Start::from_env()? else { return Ok(ExitCode::SUCCESS) };
                block_on(roles::serve::run(&config, start))?;
            }
            Self::Volunteer(args) => {
                let Some(start) = Start::from_env()? else { return Ok(ExitCode::SUCCESS) };
                block_on(roles::volunteer::run(args.options(), start))?;
            }
            Self::Verify { server, json, paths } => {
                return block_on(roles::verify::run(&server, &paths, json));
            }
            Self::Token(TokenCommand::Issue { config, note }) => roles::token::issue(&config, &note)?,
            Self::Token(TokenCommand::List { config, json }) => roles::token::list(&config, json)?,
            Self::Token(TokenCommand::Revoke { config, id }) => roles::token::revoke(&config, &id)?,
            Self::Status { admin, config, json, dedup, watch, why, can_return } => {
                let report = match why.as_deref() {
                    Some([client, path]) => {
                        Report::Why { client: client.clone(), path: path.clone(), can_return }
                    }
                    _ if dedup => Report::Dedup,
                    _ => Report::Status,
                };
                let place = roles::status::place(admin, config.as_deref())?;
                block_on(roles::status::run(&place, &Shown { report, json, watch }))?;
            }
            Self::Check { config, quiet } => roles::check::run(&config, quiet)?,
            Self::Simulate(args) => return roles::simulate::run(&args.options()),
            Self::Demo { repos, listen } => block_on(roles::demo::run(&repos, listen))?,
            Self::Man { dir } => man::write(Cli::command(), &dir)?,
            Self::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "manyhands", &mut script);
                std::io::stdout().write_all(&script)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn block_on<T>(role: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(role)
}
