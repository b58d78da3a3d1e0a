//! The clients of the demo: lines of shell that make one fetch packages with empty caches, in private folders.

/// One package manager.
#[derive(Clone, Debug)]
pub(super) struct Client {
    /// Also the program that must be there.
    pub name: &'static str,
    /// To be run one after the other; again and again does the same.
    pub lines: Vec<String>,
}

/// Where things are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places<'a> {
    /// The server's URL.
    pub url: &'a str,
    /// The demo's own folder.
    pub dir: &'a str,
    /// The key that signed the repositories.
    pub key: &'a str,
}

pub(super) fn all(places: Places<'_>) -> [Client; 3] {
    [apt(places), dnf(places), zypper(places)]
}

fn apt(Places { url, dir, key }: Places<'_>) -> Client {
    let apt = format!(
        "apt-get -o Dir::Etc::sourcelist={dir}/apt/sources.list -o Dir::Etc::sourceparts=/dev/null \
         -o Dir::State={dir}/apt/state -o Dir::State::status={dir}/apt/status -o Dir::Cache={dir}/apt/cache \
         -o Dir::Log={dir}/apt -o APT::Sandbox::User=root -o Debug::NoLocking=1 \
         -o Acquire::http::Proxy=DIRECT -o Acquire::http::Proxy-Auto-Detect="
    );
    let lines = vec![
        format!(
            "rm -rf {dir}/apt && mkdir -p {dir}/apt/state/lists/partial {dir}/apt/cache/archives/partial && \
             touch {dir}/apt/status"
        ),
        format!("echo 'deb [signed-by={key}] {url}/alder stable main contrib' > {dir}/apt/sources.list"),
        format!("{apt} update"),
        format!("cd {dir}/apt && {apt} download hands-data hands-common hands-tools libhands++-dev"),
    ];
    Client { name: "apt-get", lines }
}

fn dnf(Places { url, dir, key }: Places<'_>) -> Client {
    let lines = vec![
        format!("rm -rf {dir}/dnf {dir}/dnf-cache"),
        format!(
            "dnf -y --installroot={dir}/dnf --releasever=1 --forcearch=x86_64 --setopt=reposdir=/dev/null \
             --setopt=cachedir={dir}/dnf-cache --setopt=varsdir=/dev/null --setopt=pluginpath=/nonexistent \
             --repofrompath=os,{url}/cedar/os --repofrompath=updates,{url}/cedar/updates \
             --setopt='*.gpgcheck=1' --setopt='*.repo_gpgcheck=1' --setopt='*.gpgkey=file://{key}' \
             install hands-common hands-data hands-tools"
        ),
    ];
    Client { name: "dnf", lines }
}

fn zypper(Places { url, dir, key }: Places<'_>) -> Client {
    let lines = vec![
        format!(
            "rm -rf {dir}/zypper && mkdir -p {dir}/zypper/etc/zypp/repos.d && rpm --root {dir}/zypper --import {key}"
        ),
        format!(
            "printf '[dogwood]\\nbaseurl={url}/dogwood\\ntype=rpm-md\\nenabled=1\\ngpgcheck=1\\nrepo_gpgcheck=1\\n\
             pkg_gpgcheck=1\\ngpgkey=file://{key}\\n' > {dir}/zypper/etc/zypp/repos.d/dogwood.repo"
        ),
        format!("zypper --root {dir}/zypper --non-interactive refresh"),
        format!(
            "zypper --root {dir}/zypper --non-interactive install --no-recommends hands-epoch hands-snapshot"
        ),
    ];
    Client { name: "zypper", lines }
}
