//! Decompression: the output is never beyond the limit, and the limit changes nothing else.

use std::io::Read;

use manyhands::formats::compress::{Compression, decompress, reader};

const KINDS: [Compression; 6] = [
    Compression::None,
    Compression::Gzip,
    Compression::Xz,
    Compression::Bzip2,
    Compression::Zstd,
    Compression::Lzma,
];

/// More than any seed has.
const LIMIT: u64 = 1 << 20;

/// A digit for the compression, a letter for the limit (`a` is 0 bytes, each further one doubles), then the
/// compressed bytes.
pub fn compress(data: &[u8]) -> usize {
    let [kind, limit, bytes @ ..] = data else { return 0 };
    let kind = KINDS[usize::from(*kind) % KINDS.len()];
    // 0, 1, 2, 4 ... 512 KiB.
    let limit = (1 << (limit.wrapping_sub(b'a') % 21)) >> 1;
    let all = decompress(kind, bytes, LIMIT);
    let within = decompress(kind, bytes, limit);
    match (&all, &within) {
        (Ok(all), Ok(within)) => assert_eq!(all, within),
        (Ok(all), Err(_)) => assert!(all.len() as u64 > limit, "{kind:?}: refused within the limit"),
        (Err(_), Ok(_)) => panic!("{kind:?}: the smaller limit is kept, the larger is not"),
        (Err(_), Err(_)) => {}
    }
    for (limit, output) in [(LIMIT, &all), (limit, &within)] {
        assert!(output.as_ref().map_or(0, Vec::len) as u64 <= limit, "{kind:?}: beyond the limit");
    }
    // The same in small steps: parsers read so.
    let mut steps = Vec::new();
    let mut input = reader(kind, Box::new(bytes)).take(LIMIT + 1);
    let mut step = [0; 61];
    while let Ok(amount @ 1..) = input.read(&mut step) {
        steps.extend_from_slice(&step[..amount]);
    }
    all.map_or(0, |all| {
        assert_eq!(all, steps, "{kind:?}: in steps");
        1
    })
}
