//! A server, volunteers and clients, each on a host of its own.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::keeper::Listen;
use super::{Host, Keeper, Line, Network};
use crate::support::{
    BINARY, DEADLINE, Scratch, ServerConfig, SmallDisk, Status, VolunteerOptions, http, issue_token, poll,
};

/// Where volunteers serve, and where their lines do if they have some.
pub const VOLUNTEER_PORT: u16 = 8090;
const LINE_PORT: u16 = 8091;
const SERVER_PORT: u16 = 8080;
const ADMIN_PORT: u16 = 8081;
/// Last numbers of addresses: the server's, the first volunteer's, the first client's.
const SERVER: u8 = 1;
const VOLUNTEER: u8 = 11;
pub const CLIENT: u8 = 101;
/// What a volunteer gives: a download of some hundred KB takes long enough to be hit in its middle, and two at a
/// time are above what the server thinks worth a redirect.
pub const RATE: &str = "256KiB/s";

/// What a bed has.
#[derive(Clone, Debug)]
pub struct Plan {
    pub config: ServerConfig,
    pub volunteers: u8,
    pub clients: u8,
    /// Whether a [`Line`] stands between clients and volunteers.
    pub has_lines: bool,
    /// Whether the server and volunteers listen on sockets that their service manager holds.
    pub is_activated: bool,
    /// Whether the server answers on port 80 too and clients ask it for names.
    pub has_zone: bool,
    /// Size of a volunteer's disk, as for mount(8), where it has one of its own.
    pub disk: Option<&'static str>,
    pub donate: &'static str,
    /// What each of them gives, where they are not alike.
    pub rates: &'static [&'static str],
}

impl Plan {
    pub fn new(config: ServerConfig) -> Self {
        Self {
            config,
            volunteers: 2,
            clients: 1,
            has_lines: false,
            is_activated: false,
            has_zone: false,
            disk: None,
            donate: RATE,
            rates: &[],
        }
    }
}

/// See the module's documentation. Fields drop in order: processes before the hosts that they run on.
#[derive(Debug)]
pub struct Bed {
    pub server: Keeper,
    pub workers: Vec<Worker>,
    pub clients: Vec<Host>,
    pub server_host: Arc<Host>,
    pub network: Network,
    pub scratch: Scratch,
}

/// One volunteer.
#[derive(Debug)]
pub struct Worker {
    pub keeper: Keeper,
    pub line: Option<Line>,
    pub options: VolunteerOptions,
    pub host: Arc<Host>,
    disk: Option<SmallDisk>,
}

impl Bed {
    /// Starts everything and waits until all volunteers are up.
    pub fn start(plan: &Plan) -> Self {
        let scratch = Scratch::new();
        let network = Network::new(&scratch.path("network"));
        let server_host = Arc::new(network.host("server", SERVER, &[]));
        let address = server_host.address;
        let ports: &[u16] = if plan.has_zone { &[SERVER_PORT, 80] } else { &[SERVER_PORT] };
        let listen: Vec<String> = ports.iter().map(|port| format!("{address}:{port}")).collect();
        let listen: Vec<&str> = listen.iter().map(String::as_str).collect();
        let log = format!("access_log = {:?}", scratch.path("access.log").display().to_string());
        let mut config =
            plan.config.clone().server_lines(&log).listen(&listen).admin(&format!("{address}:{ADMIN_PORT}"));
        if plan.has_zone {
            config = config.server_lines(&format!(
                "failover_zone = \"v.test\"\ndns_listen = [\"{address}:53\"]\nfailover_addresses = [\"{address}\"]"
            ));
        }
        let config = config.write(&scratch);
        // A service manager can hold several sockets, ours only one.
        let is_activated = plan.is_activated && !plan.has_zone;
        let server = Self::start_server(&server_host, &scratch, config.clone(), is_activated);
        let resolver = format!("nameserver {address}\n");
        let client = |number: u8| {
            let name = format!("client{number}");
            network.host(&name, CLIENT + number - 1, &[("resolv.conf", &resolver)])
        };
        let clients = (1..=plan.clients).map(client).collect();
        let mut bed = Self { server, workers: Vec::new(), clients, server_host, network, scratch };
        for number in 1..=plan.volunteers {
            let worker = Worker::start(&bed, plan, number, &config);
            bed.workers.push(worker);
        }
        bed.wait_all_up();
        bed
    }

    fn start_server(host: &Arc<Host>, scratch: &Scratch, config: PathBuf, is_activated: bool) -> Keeper {
        let listen = is_activated.then(|| listen_on(host, SERVER_PORT));
        let host = Arc::clone(host);
        Keeper::start("server", &scratch.path(""), listen, move || {
            let mut command = Command::new(BINARY);
            command.arg("serve").arg("--config").arg(&config);
            command.args(["--log", "debug", "--log-format", "json"]);
            host.enter(&command)
        })
    }

    /// The server's URL for a path without leading slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}:{SERVER_PORT}/{path}", self.server_host.address)
    }

    /// Where the status API is.
    pub fn status_url(&self) -> String {
        format!("http://{}:{ADMIN_PORT}/api/v1/status", self.server_host.address)
    }

    /// The server's status; `None` while it is away.
    pub fn try_status(&self) -> Option<Status> {
        let answer = http::try_get(&self.status_url()).ok()?;
        serde_json::from_slice(&answer.body).ok().map(Status)
    }

    pub fn wait_within(&self, what: &str, limit: Duration, is_met: impl Fn(&Status) -> bool) -> Status {
        let met = poll(limit, || self.try_status().filter(|status| is_met(status)));
        let last = || self.try_status().map(|status| status.pretty()).unwrap_or_default();
        met.unwrap_or_else(|| panic!("waited {} s in vain: {what}\n{}", limit.as_secs(), last()))
    }

    pub fn wait_all_up(&self) {
        self.wait_within("all volunteers are up", DEADLINE, |status| {
            self.workers.iter().all(|worker| status.state(worker.id()) == "up")
        });
    }

    /// Asks for these packages until every volunteer holds so many.
    pub fn spread(&self, paths: &[String]) {
        let is_spread = || {
            let _ = paths.iter().map(|path| http::try_get(&self.url(path))).filter(Result::is_err).count();
            let status = self.try_status()?;
            let all = self.workers.iter().all(|w| status.of(w.id(), "holdings") >= paths.len() as u64);
            (all && status.is_placed()).then_some(())
        };
        let spread = poll(2 * DEADLINE, is_spread);
        assert!(spread.is_some(), "not on every volunteer: {paths:?}\n{:?}", self.try_status());
    }

    /// Asks for these packages until there are two copies of each on the average.
    pub fn place(&self, paths: &[String]) {
        let is_placed = || {
            let _ = paths.iter().map(|path| http::try_get(&self.url(path))).filter(Result::is_err).count();
            let status = self.try_status()?;
            (status.sum("holdings") >= 2 * paths.len() as u64 && status.is_placed()).then_some(())
        };
        let placed = poll(2 * DEADLINE, is_placed);
        assert!(placed.is_some(), "not placed: {paths:?}\n{:?}", self.try_status());
    }

    /// Waits until the server counts no download at any volunteer.
    pub fn wait_quiet(&self) {
        self.wait_within("no download is under way", DEADLINE, |status| {
            status.sum("in_flight") == 0 && status.sum("uploads") == 0
        });
    }

    /// The server's log lines with this message, as their fields.
    pub fn messages(&self, message: &str) -> Vec<serde_json::Value> {
        self.fields().into_iter().filter(|fields| fields["message"] == message).collect()
    }

    /// All of them.
    pub fn fields(&self) -> Vec<serde_json::Value> {
        let fields = |line: &String| {
            let mut value: serde_json::Value = serde_json::from_str(line).ok()?;
            Some(value.get_mut("fields")?.take())
        };
        self.server.lines().iter().filter_map(fields).collect()
    }

    /// What a client has asked the server for, in order: path and status.
    pub fn asked(&self, client: &Host) -> Vec<(String, u16)> {
        let log = std::fs::read_to_string(self.scratch.path("access.log")).unwrap_or_default();
        let own = format!("{} ", client.address);
        let request = |line: &str| {
            let mut words = line.strip_prefix(&own)?.split('"').nth(1)?.split(' ');
            let status = line.split('"').nth(2)?.split_whitespace().next()?.parse().ok()?;
            Some((words.nth(1)?.to_owned(), status))
        };
        log.lines().filter_map(request).collect()
    }

    pub fn worker(&self, id: &str) -> &Worker {
        self.workers.iter().find(|worker| worker.id() == id).unwrap_or_else(|| panic!("no volunteer {id}"))
    }
}

fn listen_on(host: &Arc<Host>, port: u16) -> Listen {
    let host = Arc::clone(host);
    Box::new(move || host.listen(port).expect("a free port"))
}

impl Worker {
    fn start(bed: &Bed, plan: &Plan, number: u8, config: &std::path::Path) -> Self {
        let id = format!("v{number}");
        let host = Arc::new(bed.network.host(&id, VOLUNTEER + number - 1, &[]));
        let token_file = bed.scratch.path(&format!("{id}.token"));
        std::fs::write(&token_file, issue_token(config)).expect("the scratch folder is writable");
        let disk = plan.disk.map(|size| SmallDisk::mount(&bed.scratch.path(&format!("{id}-disk")), size));
        let folder = if disk.is_some() { format!("{id}-disk/store") } else { format!("{id}-store") };
        // A small disk has not the gigabyte that volunteers leave free else.
        let file = bed.scratch.path(&format!("{id}.toml"));
        std::fs::write(&file, "min_free = \"1MiB\"\n").expect("the scratch folder is writable");
        let options = VolunteerOptions {
            config: disk.is_some().then_some(file),
            id: id.clone(),
            address: host.address.to_string(),
            port: VOLUNTEER_PORT,
            advertise: plan.has_lines.then(|| format!("http://{}:{LINE_PORT}", host.address)),
            store: bed.scratch.dir(&folder),
            token_file,
            server: bed.url("").trim_end_matches('/').to_owned(),
            donate: Some(plan.rates.get(usize::from(number) - 1).unwrap_or(&plan.donate).to_string()),
            max_size: None,
            adopt: Vec::new(),
        };
        let listen = plan.is_activated.then(|| listen_on(&host, VOLUNTEER_PORT));
        let (its_host, its_options) = (Arc::clone(&host), options.clone());
        let keeper =
            Keeper::start(&id, &bed.scratch.path(""), listen, move || its_host.enter(&its_options.command()));
        let line = plan.has_lines.then(|| Line::start(&host, LINE_PORT, VOLUNTEER_PORT));
        Self { keeper, line, options, host, disk }
    }

    pub fn id(&self) -> &str {
        &self.options.id
    }

    /// The folder of its own disk.
    pub fn disk(&self) -> Option<PathBuf> {
        self.disk.as_ref().and_then(|_| self.options.store.parent()).map(PathBuf::from)
    }
}
