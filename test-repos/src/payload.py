#!/usr/bin/env python3
"""Write SIZE pseudo-random bytes to standard output, the same on every machine.

The packages need content that does not compress, does not change from build
to build, and resembles its predecessor where a new version is wanted: so the
bytes are SHA-256 of a seed and a counter, followed by a list of edits.

usage: payload.py SEED SIZE [EDIT]...
  EDIT  =OFFSET:LENGTH   overwrite LENGTH bytes
        +OFFSET:LENGTH   insert LENGTH bytes, moving the rest
"""

import hashlib
import sys


def stream(seed, size):
    blocks = (hashlib.sha256(f"{seed}:{n}".encode()).digest() for n in range(-(-size // 32)))
    return b"".join(blocks)[:size]


def main(seed, size, *edits):
    data = stream(seed, int(size))
    for edit in edits:
        kind, (offset, length) = edit[0], map(int, edit[1:].split(":"))
        resume = {"=": offset + length, "+": offset}[kind]
        data = data[:offset] + stream(f"{seed}{edit}", length) + data[resume:]
    sys.stdout.buffer.write(data)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
