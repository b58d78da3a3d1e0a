#!/usr/bin/env bash
# Installs the programs that the tests and the bench drive: package managers, repository tools, peers,
# and what judges packages.
# As root on Debian or Ubuntu it installs what is missing; elsewhere it says what is missing.
set -euo pipefail

# command:package
needed="
    dnf:dnf zypper:zypper createrepo_c:createrepo-c rpmbuild:rpm apt-ftparchive:apt-utils
    debootstrap:debootstrap nginx:nginx-light wrk:wrk aria2c:aria2 zsync:zsync reprepro:reprepro
    wget:wget curl:curl gpg:gnupg xz:xz-utils openssl:openssl zstd:zstd bzip2:bzip2 ip:iproute2
    zckdl:zchunk nsenter:util-linux apt-cacher-ng:apt-cacher-ng
    dig:bind9-dnsutils debmirror:debmirror apt-mirror:apt-mirror aptly:aptly
    mmdebstrap:mmdebstrap lftp:lftp systemd-nspawn:systemd-container
    dpkg-shlibdeps:dpkg-dev objcopy:binutils lintian:lintian rpmlint:rpmlint logrotate:logrotate man:man-db"

PATH=$PATH:/usr/sbin:/sbin
missing=()
for pair in $needed; do
    command -v "${pair%:*}" >/dev/null || missing+=("${pair#*:}")
done
# Taken apart, not installed: auto-apt-proxy would change how this machine's apt works, and dnf's plugins
# (reposync) cannot be installed beside zypper.
tools=${CARGO_TARGET_DIR:-$(dirname "${BASH_SOURCE[0]}")/../target}/tools
apart=()
[[ -x $tools/usr/bin/auto-apt-proxy ]] || apart+=(auto-apt-proxy)
[[ -e $tools/usr/lib/python3/dist-packages/dnf-plugins/reposync.py ]] || apart+=(dnf-plugins-core)
[[ ${#missing[@]} -gt 0 || ${#apart[@]} -gt 0 ]] || exit 0

# Takes a package apart without installing it.
unpack() {
    mkdir -p "$tools"
    (cd "$tools" && apt-get -q -o APT::Sandbox::User=root download "$1" && dpkg-deb -x "$1"_*.deb . && rm "$1"_*.deb)
}

install="apt-get install -y --no-install-recommends ${missing[*]}"
if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    echo "tests/setup.sh: missing: ${missing[*]}; taken apart in $tools: ${apart[*]} (Debian's package names)" >&2
    echo "tests/setup.sh: on Debian or Ubuntu, as root: $install" >&2
    echo "tests/setup.sh: tests that need them will fail" >&2
    exit 0
fi

# 101: installing nginx or apt-cacher-ng must not start it.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

log=$(mktemp)
echo "tests/setup.sh: installing ${missing[*]} ${apart[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # words
if ! (
    apt-get -o DPkg::Lock::Timeout=120 -q update &&
        { [[ ${#missing[@]} == 0 ]] || ${install/apt-get/apt-get -q -o DPkg::Lock::Timeout=120}; } &&
        for package in "${apart[@]}"; do unpack "$package" || exit 1; done
) >"$log" 2>&1; then
    tail -n 30 "$log" >&2
    echo "tests/setup.sh: failed: $install (whole log: $log)" >&2
    exit 1
fi
rm -f "$log"
