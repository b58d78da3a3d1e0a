//! `make testbed`: a server, three volunteers and a client, each on a host of its own, for playing with.
//!
//! The terminal becomes a shell on the client; when it ends, or is interrupted, all is gone.

#[path = "../support/mod.rs"]
mod support;

use std::io::IsTerminal;
use std::process::{Command, ExitCode};

use support::net::{Bed, Plan, again, is_alone, prepare};
use support::{ServerConfig, test_repos};

/// What the help names.
const REPOS: [(&str, &str); 3] =
    [("alder", "generic-deb"), ("birch", "generic-deb"), ("cedar", "generic-rpm")];

fn main() -> ExitCode {
    if !is_alone() {
        return match again().status() {
            Ok(status) if status.success() => ExitCode::SUCCESS,
            // setpriv or unshare have said why.
            _ => {
                eprintln!("the testbed needs namespaces: be root, or allow user namespaces");
                ExitCode::FAILURE
            }
        };
    }
    prepare();
    let tree = test_repos("t0");
    let add =
        |config: ServerConfig, (name, distro): &(&str, &str)| config.tree(name, distro, &tree.join(name), "");
    let config = REPOS.iter().fold(ServerConfig::default(), add);
    let bed = Bed::start(&Plan { volunteers: 3, has_lines: false, donate: "8MiB/s", ..Plan::new(config) });
    for worker in &bed.workers {
        worker.host.limit("64mbit");
    }
    explain(&bed);
    let mut shell = bed.clients[0].command("bash");
    let interactive = std::io::stdin().is_terminal();
    shell.args(["--norc"]).env("PS1", "client# ");
    if !interactive {
        // Commands from a pipe, or nothing.
        shell = bed.clients[0].command("bash");
    }
    let status = shell.status();
    drop(bed);
    match status {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn explain(bed: &Bed) {
    println!("server     {:<16} {}", bed.server_host.address.to_string(), bed.server_host.entrance());
    for worker in &bed.workers {
        println!("{:<10} {:<16} {}", worker.id(), worker.host.address.to_string(), worker.host.entrance());
    }
    for client in &bed.clients {
        println!("client     {:<16} {}", client.address.to_string(), client.entrance());
    }
    let pid = Command::new("sh").args(["-c", "readlink /proc/self/ns/net"]).output();
    let net = pid.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default();
    println!("switch     {:<16} this machine's {net}", bed.network.own_address().to_string());
    println!("\nThis is a shell on the client; the commands above enter the other hosts from here.");
    println!("From another terminal, first: nsenter -a -t $(pgrep -n -f by_hand) bash");
    println!("Status: curl -s {}", bed.status_url());
    println!("apt:    deb [trusted=yes] {} stable main", bed.url("alder"));
    println!("dnf:    baseurl={}", bed.url("cedar/os"));
    println!("An outage: `ip link set eth0 down` on a volunteer. The end: `exit`.\n");
}
