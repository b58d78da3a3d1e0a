#!/usr/bin/env bash
# The repositories that librepo, createrepo_c, libzypp and aptly are tested with, in a folder for `make compare`:
# clones the projects where they are not there yet, and makes repositories of the packages among their fixtures.
set -euo pipefail

folder=${1:?which folder? tests/by_hand/suites.sh FOLDER}
mkdir -p "$folder"
cd "$folder"

for project in rpm-software-management/librepo rpm-software-management/createrepo_c openSUSE/libzypp aptly-dev/aptly; do
    [[ -d ${project#*/} ]] || git clone -q --depth 1 "https://github.com/$project"
done

rm -rf made
mkdir made

# rpm NAME PACKAGES OPTION...: a repository of these packages, made by createrepo_c.
rpm_of() {
    mkdir "made/$1"
    cp "$2"/*.rpm "made/$1"
    createrepo_c -q "${@:3}" "made/$1"
}
packages=createrepo_c/tests/testdata/packages
rpm_of createrepo_c "$packages"
rpm_of createrepo_c-simple "$packages" --simple-md-filenames --no-database
rpm_of createrepo_c-xz-sha512 "$packages" --xz --checksum=sha512
rpm_of createrepo_c-sha1 "$packages" --checksum=sha
rpm_of createrepo_c-zchunk "$packages" --zck
rpm_of libzypp-packages libzypp/zypp/tests/zypp/data/RpmPkgSigCheck

# aptly's own packages, published by aptly and signed with the key that it is tested with.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GNUPGHOME=$work/gnupg
mkdir -m 700 "$GNUPGHOME"
gpg -q --batch --import aptly/system/files/aptly.sec
cat >"$work/aptly.conf" <<CONF
{"rootDir": "$work/aptly", "architectures": ["amd64", "i386", "source"], "gpgProvider": "gpg"}
CONF
aptly() { command aptly -config="$work/aptly.conf" "$@" >>"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; exit 1; }; }
aptly repo create -distribution=stable -component=main main
aptly repo add -force-replace main aptly/system/files aptly/system/udebs
aptly repo create -distribution=stable -component=contrib contrib
aptly repo add -force-replace contrib aptly/deb/testdata
aptly publish repo -batch -component=main,contrib main contrib names
aptly publish repo -batch -component=main,contrib -acquire-by-hash main contrib hash
aptly publish repo -batch -component=main -skip-contents -distribution=plain main plain
aptly publish repo -batch -component=main -skip-signing main unsigned
for name in names hash plain unsigned; do
    cp -rL --preserve=timestamps "$work/aptly/public/$name" "made/aptly-$name"
    [[ $name == unsigned ]] || gpg -q --batch --armor --export >"made/aptly-$name/key.asc"
done

# The same flat, without a Release file.
mkdir made/aptly-flat
cp aptly/system/files/*.deb aptly/deb/testdata/changes/*.deb made/aptly-flat
(cd made/aptly-flat && dpkg-scanpackages -m . >Packages 2>/dev/null && gzip -k9n Packages)
