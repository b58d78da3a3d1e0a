#!/usr/bin/env bash
# Builds the test repositories: small real deb and rpm repositories and an
# image directory, in two generations t0 and t1, from the tables in src/ with
# the tools that distributions use themselves.
#
# The result is committed, so tests need neither these tools nor a network.
# A rebuild gives the same bytes when the tools have the same versions
# (README.md names them): dates, random bytes and the signing key are fixed.
#
# usage: ./build.sh [OUT]     replaces OUT/t0 and OUT/t1; OUT: this folder
# needs: dpkg-dev apt-utils rpm createrepo-c gnupg xz-utils zstd python3
set -euo pipefail
export LC_ALL=C TZ=UTC
umask 022

here=$(cd "$(dirname "$0")" && pwd)
src=$here/src
mkdir -p "${1:-$here}"
out=$(cd "${1:-$here}" && pwd)
work=$(mktemp -d)
trap 'gpgconf --kill all; rm -rf "$work"' EXIT

# The day of each generation, at noon.
declare -A day=([t0]=20250601 [t1]=20250608)
declare -A date_of=([t0]=$(date -d 2025-06-01T12:00Z +%s) [t1]=$(date -d 2025-06-08T12:00Z +%s))

# A table without its comments.
table() { grep -v '^#' "$src/$1"; }

# Gives every file below the directories $2... the date of generation $1.
set_dates() { find "${@:2}" -exec touch --no-dereference --date="@${date_of[$1]}" {} +; }

# ---------------------------------------------------------------- signing

export GNUPGHOME=$work/gnupg
mkdir -m 700 "$GNUPGHOME"
gpg --batch --quiet --import "$here/keys/FOR-TESTS-ONLY.secret.asc"
signer=$(gpg --batch --with-colons --list-secret-keys | awk -F: '/^fpr/ {print $10; exit}')

# gpg in generation $1; an RSA signature made at a fixed time is reproducible.
sign() {
    gpg --batch --quiet --yes --digest-algo SHA256 --local-user "$signer" \
        --faked-system-time "${day[$1]}T120000!" "${@:2}" 2> >(grep -v faked >&2)
}

# ---------------------------------------------------------------- packages

# The files of one package: install_payload ROOT NAME VERSION SEED SIZE [EDIT]...
install_payload() {
    local dir=$1/usr/share/$2
    mkdir -p "$dir"
    python3 "$src/payload.py" "${@:4}" >"$dir/payload.bin"
    echo "This is $2 $3." >"$dir/version.txt"
}

build_deb() {
    local key=$1 built=$2 zip=$3 root=$work/deb name version arch section=misc
    IFS=_ read -r name version arch <<<"${key%@*}"
    case $name in
        lib*-dev) section=libdevel ;;
        lib*) section=libs ;;
        hands-contrib) section=contrib/misc ;;
    esac
    rm -rf "$root" && mkdir -p "$root/DEBIAN"
    sed "s/@NAME@/$name/; s/@VERSION@/$version/; s/@ARCH@/$arch/; s,@SECTION@,$section," \
        "$src/control.in" >"$root/DEBIAN/control"
    install_payload "$root" "$name" "$version" "${@:4}"
    set_dates "$built" "$root"
    SOURCE_DATE_EPOCH=${date_of[$built]} dpkg-deb --root-owner-group --threads-max=1 -Z"$zip" \
        --build "$root" "$work/packages/$key" >/dev/null
    touch --date="@${date_of[$built]}" "$work/packages/$key"
}

build_rpm() {
    local key=$1 built=$2 zip=$3 root=$work/rpm nevr name epoch='' version release arch reserve=4096
    local -A payload=([none]=w.ufdio [gzip]=w9.gzdio [xz]=w6.xzdio [zstd]=w19.zstdio)
    nevr=${key%@*} arch=${nevr##*.} nevr=${nevr%.*}
    release=${nevr##*-} nevr=${nevr%-*}
    version=${nevr##*-} name=${nevr%-*}
    if [[ $version == *:* ]]; then
        epoch="Epoch: ${version%%:*}\n" version=${version#*:}
    fi
    # rpm leaves room for later signatures; the tiny packages do without.
    [[ $name == hands-tiny || $name == hands-nano ]] && reserve=0
    rm -rf "$root" && mkdir -p "$root"
    sed "s/@NAME@/$name/; s/@EPOCH@/$epoch/; s/@VERSION@/$version/; s/@RELEASE@/$release/" \
        "$src/package.spec.in" >"$root/package.spec"
    install_payload "$root/files" "$name" "$version-$release" "${@:4}"
    set_dates "$built" "$root/files"
    SOURCE_DATE_EPOCH=${date_of[$built]} rpmbuild -bb --quiet --target "$arch" \
        --buildroot "$root/buildroot" \
        --define "_topdir $root" \
        --define "_rpmfilename package.rpm" \
        --define "_binary_payload ${payload[$zip]}" \
        --define "_buildhost tests.manyhands.invalid" \
        --define "use_source_date_epoch_as_buildtime 1" \
        --define "clamp_mtime_to_source_date_epoch 1" \
        --define "__gpg_reserved_space $reserve" \
        --define "payload_root $root/files" \
        "$root/package.spec" >/dev/null
    rpmsign --addsign \
        --define "_gpg_name $signer" \
        --define "__gpg $(command -v gpg)" \
        --define "_gpg_digest_algo sha256" \
        --define "_gpg_sign_cmd_extra_args --batch --quiet --faked-system-time ${day[$built]}T120000!" \
        "$root/RPMS/package.rpm" >/dev/null 2>"$work/rpmsign.log" || { cat "$work/rpmsign.log" >&2; return 1; }
    mv "$root/RPMS/package.rpm" "$work/packages/$key"
    touch --date="@${date_of[$built]}" "$work/packages/$key"
}

# The source package of hands-tools, revision $2, built in generation $1.
build_source() {
    local built=$1 revision=$2 root=$work/source/hands-tools-1.0 tar
    tar=(tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@${date_of[t0]}" -C "$work/source")
    rm -rf "$root" && mkdir -p "$root"
    echo 'The source of hands-tools.' >"$root/README"
    python3 "$src/payload.py" tools-source 36864 >"$root/payload.bin"
    "${tar[@]}" -c hands-tools-1.0 | xz -6 >"$work/source/hands-tools_1.0.orig.tar.xz"
    cp -r "$src/hands-tools.debian" "$root/debian"
    dpkg_changelog "$revision" >"$root/debian/changelog"
    set_dates "$built" "$root"
    (
        cd "$work/source"
        SOURCE_DATE_EPOCH=${date_of[$built]} dpkg-source --build hands-tools-1.0 >/dev/null
        sign "$built" --output signed --clearsign "hands-tools_1.0-$revision.dsc"
        mv signed "hands-tools_1.0-$revision.dsc"
    )
}

dpkg_changelog() {
    local n
    for ((n = $1; n > 0; n--)); do
        printf 'hands-tools (1.0-%d) stable; urgency=medium\n\n  * Release %d.\n\n' "$n" "$n"
        printf ' -- manyhands tests <tests@manyhands.invalid>  %s\n\n' "$(date -R -d "@${date_of[t$((n - 1))]}")"
    done
}

# Copies the files of repository $1 in generation $2 into the directory $3 and
# prints "how-listed path" of each.
place() {
    local repo key path t0 t1 listed
    while read -r repo key path t0 t1; do
        [[ $repo == "$1" ]] || continue
        [[ $2 == t0 ]] && listed=$t0 || listed=$t1
        [[ $listed != - ]] || continue
        install -D --preserve-timestamps --mode=644 "$work/packages/$key" "$3/$path"
        echo "$listed $path"
    done < <(table layout.txt)
}

# ---------------------------------------------------------------- deb repositories

# The Release file of the directory $2, with the fields on standard input, and
# its two signatures. Options for apt-ftparchive follow.
release() {
    local generation=$1 dir=$2
    cat >"$work/Release"
    apt-ftparchive "${@:3}" -o APT::FTPArchive::Release::Date="$(date -R -u -d "@${date_of[$generation]}")" \
        release "$dir" >>"$work/Release"
    mv "$work/Release" "$dir/Release"
    sign "$generation" --armor --output "$dir/Release.gpg" --detach-sign "$dir/Release"
    sign "$generation" --output "$dir/InRelease" --clearsign "$dir/Release"
}

# Removes the uncompressed indexes, which Release lists nevertheless.
drop_uncompressed() { find "$1" -regex '.*/\(Packages\|Sources\|Translation-en\|Contents-[a-z0-9]+\)' -delete; }

# Copies each index that Release lists and that is there to by-hash/.
add_by_hash() {
    local algorithm hash path
    awk '/^(MD5Sum|SHA256):/ {a = substr($1, 1, length($1) - 1); next} /^[^ ]/ {a = ""} a {print a, $1, $3}' "$1/Release" |
        while read -r algorithm hash path; do
            [[ -f $1/$path ]] || continue
            install -D --mode=644 "$1/$path" "$1/${path%/*}/by-hash/$algorithm/$hash"
        done
}

# What apt-ftparchive generate is to do: one Tree of suite $2 in directory $1
# with components $3 and architectures $4, compressed as $5.
generate_config() {
    cat <<EOF
Dir { ArchiveDir "$1"; }
Default { Packages::Compress "$5"; Sources::Compress ". xz"; Translation::Compress ". xz"; }
Tree "dists/$2" {
    Sections "$3";
    Architectures "$4";
    FileList "$work/list/\$(DIST)_\$(SECTION)_\$(ARCH)";
    SourceFileList "$work/list/\$(DIST)_\$(SECTION)_source";
};
EOF
}

# Writes the file lists of suite $1 for components $2 and architectures $3 from
# the output of place; the index of an architecture holds its packages and all's.
file_lists() {
    local suite=$1 component arch
    mkdir -p "$work/list/dists"
    for component in $2; do
        for arch in $3; do
            awk -v suite="$suite" -v component="$component" -v arch="$arch" '
                index("," $1 ",", "," suite ",") && index($2, "pool/" component "/") == 1 &&
                ((arch == "source") ? /\.dsc$/ : /\.deb$/ && (/_all\.deb$/ || arch != "all")) {print $2}
            ' "$work/placed" | sort >"$work/list/dists/${suite}_${component}_${arch}"
        done
    done
}

alder() {
    local generation=$1 dir=$2 suite component revision previous=$work/t0/alder
    place alder "$generation" "$dir" >"$work/placed"
    for revision in 1 2; do
        [[ $revision == 1 || $generation == t1 ]] || continue
        install --preserve-timestamps --mode=644 "$work"/source/hands-tools_1.0.orig.tar.xz \
            "$work/source/hands-tools_1.0-$revision".* "$dir/pool/main/h/hands-tools/"
    done
    # Stable follows the newest source; testing has none.
    [[ $generation == t0 ]] && revision=1 || revision=2
    echo "stable pool/main/h/hands-tools/hands-tools_1.0-$revision.dsc" >>"$work/placed"

    for suite in stable testing; do
        file_lists "$suite" 'main contrib' 'amd64 all source'
        for component in main contrib; do
            mkdir -p "$dir/dists/$suite/$component"/{binary-amd64,binary-all,source,i18n}
        done
        generate_config "$dir" "$suite" 'main contrib' 'amd64 all source' '. gzip xz' >"$work/generate.conf"
        apt-ftparchive --quiet=2 -o APT::FTPArchive::IncludeArchitectureAll=true \
            -o APT::FTPArchive::LongDescription=false \
            -o APT::FTPArchive::SHA1=false -o APT::FTPArchive::SHA512=false \
            generate "$work/generate.conf"
        release "$generation" "$dir/dists/$suite" \
            -o APT::FTPArchive::Release::SHA1=false -o APT::FTPArchive::Release::SHA512=false <<EOF
Origin: Alder
Label: Alder
Suite: $suite
Codename: $suite
Acquire-By-Hash: yes
No-Support-for-Architecture-all: Packages
Architectures: all amd64
Components: main contrib
Description: deb test repository 1 of manyhands
EOF
        drop_uncompressed "$dir/dists/$suite"
        add_by_hash "$dir/dists/$suite"
    done

    # An archive keeps the last generations' by-hash members for a while.
    [[ $generation == t0 ]] ||
        (cd "$previous" && find dists -path '*/by-hash/*' -type f -exec cp --no-clobber --parents -t "$dir" {} +)
}

birch() {
    local generation=$1 dir=$2
    place birch "$generation" "$dir" >"$work/placed"
    file_lists focus universe amd64
    mkdir -p "$dir/dists/focus/universe/binary-amd64"
    generate_config "$dir" focus universe amd64 '. gzip zstd' >"$work/generate.conf"
    apt-ftparchive --quiet=2 generate "$work/generate.conf"
    release "$generation" "$dir/dists/focus" -o APT::FTPArchive::Release::SHA512=false <<EOF
Origin: Birch
Label: Birch
Suite: focus
Codename: focus
Architectures: amd64
Components: universe
Description: deb test repository 2 of manyhands
EOF
    drop_uncompressed "$dir/dists/focus"
}

flat() {
    local generation=$1 dir=$2
    mkdir -p "$dir"
    place flat "$generation" "$dir" >/dev/null
    (cd "$dir" && apt-ftparchive packages . >"$work/Packages" && mv "$work/Packages" Packages)
    gzip -9 --no-name --keep "$dir/Packages"
    release "$generation" "$dir" <<EOF
Origin: Flat
Label: Flat
Description: flat deb test repository of manyhands
EOF
}

# ---------------------------------------------------------------- rpm repositories

# One rpm-md repository: rpm_repo GENERATION REPO DIRECTORY [CREATEREPO-OPTION]...
rpm_repo() {
    local generation=$1 repo=$2 dir=$3
    mkdir -p "$dir"
    place "$repo" "$generation" "$dir" | sed -n 's/^yes //p' >"$work/pkglist"
    createrepo_c --quiet --workers=1 --no-database --pkglist="$work/pkglist" \
        --revision="${date_of[$generation]}" --set-timestamp-to-revision "${@:4}" "$dir"
}

sign_repomd() {
    sign "$1" --armor --output "$2/repodata/repomd.xml.asc" --detach-sign "$2/repodata/repomd.xml"
    cp "$here/keys/test.asc" "$2/repodata/repomd.xml.key"
}

cedar() {
    local generation=$1 dir=$2 member
    # Like a distribution's: the release repository never changes.
    rpm_repo t0 cedar/os "$dir/os" --groupfile="$src/comps.xml"
    sign_repomd t0 "$dir/os"

    rpm_repo "$generation" cedar/updates "$dir/updates"
    cp "$src/updateinfo-$generation.xml" "$work/updateinfo.xml"
    modifyrepo_c "$work/updateinfo.xml" "$dir/updates/repodata" >/dev/null
    # modifyrepo_c records the time of day.
    sed -i -E "s,<timestamp>[0-9]+<,<timestamp>${date_of[$generation]}<," "$dir/updates/repodata/repomd.xml"
    sign_repomd "$generation" "$dir/updates"
    # The members of the generation before stay for clients that have its repomd.xml.
    [[ $generation == t0 ]] || for member in "$work"/t0/cedar/updates/repodata/*-*; do
        cp --no-clobber "$member" "$dir/updates/repodata/"
    done
}

dogwood() {
    rpm_repo "$1" dogwood "$2" --checksum=sha512
    python3 "$src/rpm-md-zst.py" "$2/repodata"
    sign_repomd "$1" "$2"
}

elder() {
    rpm_repo "$1" elder "$2" --checksum=sha --xz --general-compress-type=xz --simple-md-filenames
    sign_repomd "$1" "$2"
}

# ---------------------------------------------------------------- images

# The images of one release, with the checksum files of three traditions.
images() {
    local generation=$1 version=8.1 edits=()
    if [[ $generation == t1 ]]; then
        version=8.2 edits=(=400000:2048 =1500000:100 +2000000:700)
    fi
    mkdir -p "$2/$version"
    cd "$2/$version"
    python3 "$src/payload.py" iso 3145728 "${edits[@]}" >demo-image.iso
    python3 "$src/payload.py" "netboot-$version" 40960 >demo-netboot.img
    python3 "$src/payload.py" "cloud-$version" 49152 >demo-cloud.raw

    { sha256sum --binary demo-image.iso; sha256sum demo-netboot.img; } >SHA256SUMS
    { sha512sum demo-image.iso; sha512sum demo-netboot.img; } >SHA512SUMS
    sign "$generation" --armor --output SHA256SUMS.gpg --detach-sign SHA256SUMS
    {
        echo "# demo-cloud.raw: $(stat --format=%s demo-cloud.raw) bytes"
        sha256sum --tag demo-cloud.raw
    } | sign "$generation" --output CHECKSUM --clearsign
    cd "$here"
}

# ---------------------------------------------------------------- all of it

mkdir -p "$work"/{packages,source}
while read -r key built zip seed size edits; do
    # shellcheck disable=SC2086 # edits are words
    build_deb "$key" "$built" "$zip" "$seed" "$size" $edits
done < <(table debs.txt)
while read -r key built zip seed size edits; do
    # shellcheck disable=SC2086
    build_rpm "$key" "$built" "$zip" "$seed" "$size" $edits
done < <(table rpms.txt)
build_source t0 1
build_source t1 2

for generation in t0 t1; do
    for repo in alder birch flat cedar dogwood elder images; do
        "$repo" "$generation" "$work/$generation/$repo"
    done
    # Git keeps no dates; these serve the one who just built.
    set_dates "$generation" "$work/$generation"
done

rm -rf "$out/t0" "$out/t1"
cp --archive "$work/t0" "$work/t1" "$out/"
