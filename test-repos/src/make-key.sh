#!/usr/bin/env bash
# Makes the key in keys/ that signs the test repositories. It ran once: the
# key is committed, because a new one would change every signed file.
# RSA 3072 without a passphrase or an expiry date is what both apt and the
# rpm of Debian 12 accept. Refuses to replace an existing key.
#
# usage: src/make-key.sh
set -euo pipefail
cd "$(dirname "$0")/../keys"

[ ! -e test.asc ] || { echo "make-key.sh: keys/test.asc exists" >&2; exit 1; }

GNUPGHOME=$(mktemp -d)
export GNUPGHOME
trap 'gpgconf --kill all; rm -rf "$GNUPGHOME"' EXIT

name='manyhands test repositories (FOR TESTS ONLY) <tests@manyhands.invalid>'
gpg --batch --quiet --faked-system-time 20250101T000000 --passphrase '' \
    --quick-generate-key "$name" rsa3072 sign never
gpg --batch --export >test.gpg
gpg --batch --armor --comment 'manyhands test repositories, FOR TESTS ONLY' --export >test.asc
gpg --batch --armor --comment 'FOR TESTS ONLY: this secret is public, never trust it' \
    --export-secret-keys >FOR-TESTS-ONLY.secret.asc
