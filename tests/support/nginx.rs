//! nginx as most mirrors run it: plain files with ETag and Last-Modified.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Conn, DEADLINE, Process, Scratch, free_port, run_ok, wait_for};

/// What Debian's and others' default configuration includes.
const TYPES: &str = "/etc/nginx/mime.types";

/// A running nginx over a folder.
#[derive(Debug)]
pub struct Nginx {
    pub process: Process,
    /// `host:port`.
    pub address: String,
    /// One line for each request: `GET /path HTTP/1.1 200`.
    pub log: PathBuf,
}

impl Nginx {
    pub fn start(scratch: &Scratch, root: &Path) -> Self {
        let port = free_port("127.0.0.1");
        let (folder, log) = (scratch.dir("nginx"), scratch.path("nginx/access.log"));
        let folder = folder.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {folder}/{name};\n"))
            .concat();
        // A master that is root would give its rights away, and could not read the scratch folder.
        let user = if run_ok(Command::new("id").arg("-u")).trim() == "0" { "user root;\n" } else { "" };
        let types = if Path::new(TYPES).is_file() { format!("include {TYPES};\n") } else { String::new() };
        let text = format!(
            "{user}daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n\
             http {{\n{types}default_type application/octet-stream;\n{temporary}log_format plain '$request $status';\naccess_log {} plain;\n\
             server {{ listen 127.0.0.1:{port}; root {}; }}\n}}\n",
            log.display(),
            root.display()
        );
        let file = scratch.path("nginx/nginx.conf");
        fs::write(&file, text).expect("the scratch folder is writable");
        let mut command = Command::new("nginx");
        let process = Process::spawn("nginx", command.arg("-c").arg(&file).args(["-p", &folder.to_string()]));
        let address = format!("127.0.0.1:{port}");
        wait_for("nginx listens", DEADLINE, || Conn::try_open(&address).is_ok());
        Self { process, address, log }
    }

    /// The URL of a path without leading slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }
}
