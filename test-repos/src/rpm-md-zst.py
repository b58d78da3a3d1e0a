#!/usr/bin/env python3
"""Recompress the members of an rpm-md repository from gzip to zstd.

createrepo_c 0.17 cannot write zstd, newer ones do so by default: this step
makes the repository look like theirs. Each repomd.xml entry gets the checksum,
size and hash-prefixed name of the new file; open-checksum and open-size
describe the uncompressed bytes and stay as they are.

usage: rpm-md-zst.py REPODATA_DIRECTORY
"""

import gzip
import hashlib
import pathlib
import re
import subprocess
import sys


def main(repodata):
    repomd = repodata / "repomd.xml"

    def recompress(entry):
        entry = entry.group()
        algorithm = re.search(r'<checksum type="(\w+)">', entry)[1]
        old = repodata / pathlib.Path(re.search(r'<location href="([^"]+)"', entry)[1]).name
        plain = gzip.decompress(old.read_bytes())
        packed = subprocess.run(["zstd", "-19", "-c"], input=plain, stdout=subprocess.PIPE, check=True).stdout
        digest = hashlib.new(algorithm, packed).hexdigest()
        new = repodata / (digest + "-" + old.name.split("-", 1)[1].removesuffix(".gz") + ".zst")
        new.write_bytes(packed)
        old.unlink()
        for pattern, value in (
            (r'(?<=<checksum type=")[^<]+', f'{algorithm}">{digest}'),
            (r'(?<=<location href="repodata/)[^"]+', new.name),
            (r"(?<=<size>)\d+", str(len(packed))),
        ):
            entry = re.sub(pattern, value, entry, count=1)
        return entry

    text = repomd.read_text()
    repomd.write_text(re.sub(r"<data .*?</data>", recompress, text, flags=re.DOTALL))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]))
