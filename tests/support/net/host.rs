//! Hosts: a network namespace each, on a cable to a switch that is this program's own bridge.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::support::{run_ok, wrap};

/// Every network of this program has a number, and with it a bridge and addresses.
static NEXT: AtomicU16 = AtomicU16::new(1);
/// This program's own place in every network.
const SWITCH: u8 = 254;
/// Nobody has this hardware address.
const NOWHERE: &str = "02:ff:ff:ff:ff:ff";

/// One network, 10.A.B.0/24. Dropping it takes bridge and cables away.
#[derive(Debug)]
pub struct Network {
    number: u16,
    folder: PathBuf,
}

impl Network {
    /// A switch without hosts; `folder` is where its hosts' namespaces are pinned. Only for programs that run
    /// alone.
    pub fn new(folder: &Path) -> Self {
        assert!(super::is_alone(), "networks are made on a machine of one's own: support::net::alone");
        fs::create_dir_all(folder).expect("the scratch folder is writable");
        let network = Self { number: NEXT.fetch_add(1, Ordering::SeqCst), folder: folder.to_owned() };
        let (bridge, address) = (network.bridge(), network.address(SWITCH));
        batch(
            &mut Command::new("ip"),
            &format!(
                "link add {bridge} type bridge\naddress add {address}/24 dev {bridge}\nlink set {bridge} up"
            ),
        );
        network
    }

    /// The address of a host with this last number.
    pub fn address(&self, last: u8) -> Ipv4Addr {
        let [high, low] = self.number.to_be_bytes();
        Ipv4Addr::new(10, high, low, last)
    }

    /// This program's own address here.
    pub fn own_address(&self) -> Ipv4Addr {
        self.address(SWITCH)
    }

    fn bridge(&self) -> String {
        format!("mh{}", self.number)
    }

    /// A new host. `etc` is pairs of a file's name in /etc and its text there: its programs see these files in
    /// place of the machine's.
    pub fn host(&self, name: &str, last: u8, etc: &[(&str, &str)]) -> Host {
        let port = format!("{}-{last}", self.bridge());
        let net = self.folder.join(format!("{name}.net"));
        let _ = File::create(&net).expect("the scratch folder is writable");
        run_ok(Command::new("unshare").arg(format!("--net={}", net.display())).arg("true"));
        let hardware = hardware_of(self.address(last));
        let cable = format!(
            "link add {port} type veth peer name eth0 address {hardware} netns {}\nlink set {port} master {} up",
            net.display(),
            self.bridge()
        );
        batch(&mut Command::new("ip"), &cable);
        let mut host = Host {
            address: self.address(last),
            port,
            net,
            mounts: String::new(),
            is_silent: AtomicBool::new(false),
        };
        batch(
            &mut host.command("ip"),
            &format!("link set lo up\naddress add {}/24 dev eth0\nlink set eth0 up", host.address),
        );
        for (file, text) in etc {
            let own = self.folder.join(format!("{name}.{file}"));
            fs::write(&own, text).expect("the scratch folder is writable");
            host.mounts += &format!("mount --bind '{}' '/etc/{file}' && ", own.display());
        }
        host
    }

    /// Bytes that came from a host to the switch so far.
    pub fn bytes_from(&self, host: &Host) -> u64 {
        let text = fs::read_to_string("/proc/net/dev").expect("proc(5)");
        let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{}:", host.port)));
        let bytes = line.and_then(|counters| counters.split_whitespace().next()).and_then(|n| n.parse().ok());
        bytes.unwrap_or_else(|| panic!("no counters of {}", host.port))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What still runs in a namespace keeps it; it goes with this program.
        let _ = Command::new("ip").args(["link", "delete", &self.bridge()]).status();
    }
}

/// One host; dropping it takes its cable away.
#[derive(Debug)]
pub struct Host {
    pub address: Ipv4Addr,
    /// Its end of the cable at the switch.
    port: String,
    net: PathBuf,
    /// Shell commands that give a program files of its own, in a mount namespace of its own.
    mounts: String,
    is_silent: AtomicBool,
}

impl Host {
    /// A program that runs on this host; the child is the program itself, with no process between.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.enter(&Command::new(program))
    }

    /// A command, with its arguments, environment and folder, on this host.
    pub fn enter(&self, command: &Command) -> Command {
        let mut entered = Command::new("nsenter");
        entered.arg(format!("--net={}", self.net.display()));
        if !self.mounts.is_empty() {
            let script = format!("{}exec \"$@\"", self.mounts);
            entered.args(["unshare", "--mount", "sh", "-c", &script, "sh"]);
        }
        wrap(entered, command)
    }

    /// How a person enters it.
    pub fn entrance(&self) -> String {
        let net = format!("nsenter --net={}", self.net.display());
        if self.mounts.is_empty() {
            return format!("{net} bash");
        }
        format!("{net} unshare --mount sh -c \"{}exec bash\"", self.mounts)
    }

    /// Does something in this host's network on a thread of its own: sockets made there belong to the host.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                let net = File::open(&self.net).expect("a pinned namespace");
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(std::os::fd::AsFd::as_fd(&net), kind).expect("a namespace of ours");
                work()
            });
            there.join().expect("what is done on a host does not panic")
        })
    }

    /// A listening socket of this host.
    pub fn listen(&self, port: u16) -> io::Result<TcpListener> {
        let address = SocketAddr::new(IpAddr::V4(self.address), port);
        self.inside(|| TcpListener::bind(address))
    }

    /// Limits what it sends, by a token bucket (tc-tbf(8)); `rate` as tc has it: `8mbit`.
    pub fn limit(&self, rate: &str) {
        let shaper = ["qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "16k"];
        run_ok(self.command("tc").args(shaper).args(["latency", "100ms"]));
    }

    /// Takes its own end of the cable down, or up again: neighbours find nobody there and tell so after a while.
    pub fn set_link(&self, is_up: bool) {
        run_ok(self.command("ip").args(["link", "set", "eth0", if is_up { "up" } else { "down" }]));
    }

    /// Has everything from and to it vanish at the switch, without anyone being told. `others` never notice that
    /// it is not there: they know its hardware address for good.
    pub fn set_silent(&self, is_silent: bool, others: &[&Self]) {
        self.is_silent.store(is_silent, Ordering::SeqCst);
        if is_silent {
            for other in others {
                other.set_way(self, Some(&hardware_of(self.address)));
            }
        }
        // Port states: linux/if_bridge.h.
        let state = if is_silent { "0" } else { "3" };
        run_ok(Command::new("bridge").args(["link", "set", "dev", &self.port, "state", state]));
        if !is_silent {
            for other in others {
                other.set_way(self, None);
            }
        }
    }

    /// Has what this host sends to another vanish for now, or not.
    pub fn set_gate(&self, to: &Self, is_shut: bool) {
        let own = to.is_silent.load(Ordering::SeqCst).then(|| hardware_of(to.address));
        self.set_way(to, if is_shut { Some(NOWHERE) } else { own.as_deref() });
    }

    fn set_way(&self, to: &Self, hardware: Option<&str>) {
        let address = to.address.to_string();
        let mut command = self.command("ip");
        match hardware {
            Some(hardware) => {
                command.args(["neighbour", "replace", &address, "lladdr", hardware]);
                run_ok(command.args(["dev", "eth0", "nud", "permanent"]));
            }
            None => {
                // Fails where there is none, and then all is well.
                let delete = command.args(["neighbour", "delete", &address, "dev", "eth0"]);
                let _ = delete.stderr(Stdio::null()).status();
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", &self.port]).stderr(Stdio::null()).status();
        let _ = Command::new("umount").arg("--lazy").arg(&self.net).status();
    }
}

/// Hardware addresses that say whose they are.
fn hardware_of(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Gives several commands to one program, as `ip -batch` takes them.
fn batch(command: &mut Command, lines: &str) {
    let mut child = command.args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip runs");
    child.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("ip reads");
    assert!(child.wait().expect("ip ends").success(), "ip cannot do this:\n{lines}");
}
