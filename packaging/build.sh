#!/usr/bin/env bash
# Packs a program that is built with debug symbols: packaging/build.sh deb|rpm PROGRAM DIR
# Two packages appear in DIR: the stripped program with its pages, and its debug symbols. The distributions' own tools
# do it: dpkg-dev for deb, rpm for rpm, and binutils. RPM_SIGN_KEY=ID signs rpm packages with that key of gpg's.
# PACKED=fast packs quickly rather than well, for tests.
set -euo pipefail

case "${1:-} $#" in
    "deb 3" | "rpm 3") ;;
    *) echo "usage: packaging/build.sh deb|rpm PROGRAM DIR" >&2; exit 2 ;;
esac
form=$1 program=$(realpath "$2")
mkdir -p "$3"
dir=$(realpath "$3")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Of a key in Cargo.toml's first table.
manifest() {
    sed -n "/^\[dependencies\]/q; s/^$1 = \[*\"\(.*\)\"\]*\$/\1/p" Cargo.toml
}

version=$(manifest version)
maintainer=$(manifest authors)
# The same sources give the same packages: they know no time but that of the last change.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
export SOURCE_DATE_EPOCH LC_ALL=C.UTF-8
umask 022

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root symbols=$work/symbols

# FILE... FOLDER
put() {
    install -D -m 644 -t "$root/${*: -1}" "${@:1:$#-1}"
}

# FILE NAME
put_as() {
    install -D -m 644 "$1" "$root/$2"
}

# The program without its symbols, and they where gdb looks for them.
stage_program() {
    local id file
    id=$(readelf --notes "$program" | sed -n 's/.*Build ID: //p')
    file=usr/lib/debug/.build-id/${id:0:2}/${id:2}.debug
    install -d "$root/usr/bin" "$symbols/${file%/*}"
    objcopy --only-keep-debug "$program" "$symbols/$file"
    chmod 644 "$symbols/$file"
    objcopy --strip-all --remove-section=.comment --add-gnu-debuglink="$symbols/$file" \
        "$program" "$root/usr/bin/manyhands"
    chmod 755 "$root/usr/bin/manyhands"
    build_id=$id
}

# Folders for zsh's and fish's completions differ between distributions.
stage_files() {
    put packaging/serve.toml packaging/volunteer.toml etc/manyhands
    put_as packaging/manyhands.logrotate etc/logrotate.d/manyhands
    put systemd/*.service systemd/*.socket usr/lib/systemd/system
    put_as systemd/manyhands.sysusers usr/lib/sysusers.d/manyhands.conf
    put packaging/avahi/manyhands.service usr/share/manyhands/avahi
    local zsh=$1 shells=$work/shells
    mkdir "$shells"
    for shell in bash zsh fish; do "$program" completions "$shell" >"$shells/$shell"; done
    put_as "$shells/bash" usr/share/bash-completion/completions/manyhands
    put_as "$shells/zsh" "usr/share/zsh/$zsh/_manyhands"
    put_as "$shells/fish" usr/share/fish/vendor_completions.d/manyhands.fish
}

stage_man() {
    mkdir "$work/man"
    "$program" man "$work/man"
    gzip -9n "$work"/man/*
    for section in 1 5; do put "$work/man/"*."$section.gz" "usr/share/man/man$section"; done
}

# README and every page that one can reach from it, laid out as in the sources, so that their links lead somewhere.
stage_pages() {
    local doc=usr/share/doc/manyhands
    put README.md CONTRIBUTING.md $doc
    put docs/*.md $doc/docs
    put bench/README.md $doc/bench
    put packaging/*.toml $doc/packaging
    put scenarios/*.toml $doc/scenarios
}

settle() {
    find "$work" -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +
}

# What the archive's tools read: debian/control and debian/changelog.
debian_folder() {
    mkdir "$work/debian"
    sed "s/@MAINTAINER@/$maintainer/" packaging/deb/control >"$work/debian/control"
    cat >"$work/debian/changelog" <<END
manyhands ($version-1) unstable; urgency=medium

  * Version $version: changelog.gz says what is new.

 -- $maintainer  $(date --utc --date "@$SOURCE_DATE_EPOCH" --rfc-email)
END
}

# PACKAGE TREE: writes the control file and packs. Further arguments are for dpkg-gencontrol.
pack_deb() {
    local package=$1 tree=$2 pack=(-Zxz)
    shift 2
    [[ ${PACKED:-} != fast ]] || pack=(-Zgzip -z1)
    mkdir -p "$tree/DEBIAN"
    (cd "$tree" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
    (cd "$work" && dpkg-gencontrol -p"$package" -P"$tree" -f/dev/null "$@" -O) >"$tree/DEBIAN/control"
    settle
    dpkg-deb --root-owner-group "${pack[@]}" --build "$tree" "$dir" >/dev/null
}

deb() {
    local doc=$root/usr/share/doc/manyhands
    stage_files vendor-completions
    debian_folder
    gzip -9nc "$work/debian/changelog" >"$doc/changelog.Debian.gz"
    gzip -9nc CHANGELOG.md >"$doc/changelog.gz"
    sed "s/@MAINTAINER@/$maintainer/" packaging/deb/copyright >"$doc/copyright"
    put_as packaging/deb/lintian-overrides usr/share/lintian/overrides/manyhands
    install -D -m 755 -t "$root/DEBIAN" packaging/deb/p*{inst,rm}
    (cd "$root" && find etc -type f | sort | sed 's|^|/|') >"$root/DEBIAN/conffiles"
    (cd "$work" && dpkg-shlibdeps --warnings=0 -Tsubstvars root/usr/bin/manyhands)
    pack_deb manyhands "$root" -Tsubstvars
    mkdir -p "$symbols/usr/share/doc"
    ln -s manyhands "$symbols/usr/share/doc/manyhands-dbgsym"
    pack_deb manyhands-dbgsym "$symbols" -DAuto-Built-Package=debug-symbols -DBuild-Ids="$build_id"
}

rpm() {
    local payload=w19.zstdio
    [[ ${PACKED:-} != fast ]] || payload=w1.gzdio
    stage_files site-functions
    put LICENSE-APACHE LICENSE-MIT usr/share/licenses/manyhands
    put CHANGELOG.md usr/share/doc/manyhands
    settle
    rpmbuild -bb --quiet --define "_topdir $work/rpm" --define "_rpmdir $work/rpms" --define "_buildhost localhost" \
        --define "_binary_payload $payload" --define "source $PWD" --define "staged $work" \
        --define "its_version $version" --define "maintainer $maintainer" \
        --define "changed $(date --utc --date "@$SOURCE_DATE_EPOCH" '+%a %b %d %Y')" packaging/rpm/manyhands.spec
    [[ -z ${RPM_SIGN_KEY:-} ]] || rpmsign --define "__gpg $(command -v gpg)" --define "_gpg_name $RPM_SIGN_KEY" \
        --addsign "$work"/rpms/*/*.rpm >/dev/null
    cp "$work"/rpms/*/*.rpm "$dir"
}

stage_program
stage_man
stage_pages
"$form"
