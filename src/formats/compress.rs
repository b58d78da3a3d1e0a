//! The compressions of repository metadata: gzip (RFC 1952), xz and lzma (the .xz file format), bzip2,
//! zstd (RFC 8878). Which one is told by the suffix of the name, as apt and dnf do.
//!
//! Streams over a reader that the caller gives; opens no file. Output is bounded by [`decompress`], or by
//! the caller who reads; memory is bounded here in both cases.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;
use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use super::entry::FormatError;

/// Most memory for an xz or lzma decoder. `xz -9`, the largest preset, has a dictionary of 64 MiB and takes
/// 65 MiB to decode (xz(1)); a larger dictionary must be asked for by hand.
const XZ_MEMORY: u64 = 80 << 20;

/// Largest zstd window: 2^27 is 128 MiB, what the zstd tool and the clients' library accept without being
/// asked. `zstd --ultra -22` reaches it, no lower level exceeds it.
const ZSTD_WINDOW_LOG: u32 = 27;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    None,
    Gzip,
    Xz,
    Bzip2,
    Zstd,
    Lzma,
}

impl Compression {
    /// Every compression with its suffix.
    const SUFFIXES: [(&str, Self); 5] = [
        (".gz", Self::Gzip),
        (".xz", Self::Xz),
        (".bz2", Self::Bzip2),
        (".zst", Self::Zstd),
        (".lzma", Self::Lzma),
    ];

    /// By the suffix of the name.
    pub fn of(path: &str) -> Self {
        Self::strip(path).1
    }

    /// The name without the suffix of its compression, and the compression.
    pub fn strip(path: &str) -> (&str, Self) {
        Self::SUFFIXES
            .into_iter()
            .find_map(|(suffix, kind)| Some((path.strip_suffix(suffix)?, kind)))
            .unwrap_or((path, Self::None))
    }

    /// Every name that a file may have, the one without compression first.
    pub fn names(stem: &str) -> impl Iterator<Item = String> + '_ {
        std::iter::once("")
            .chain(Self::SUFFIXES.map(|(suffix, _)| suffix))
            .map(move |end| format!("{stem}{end}"))
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
            Self::Zstd => "zstd",
            Self::Lzma => "lzma",
        }
    }
}

/// A reader of the decompressed bytes. Streams that stand one after the other (members, frames) are read as
/// one. Output is not bounded: stop reading in time. A stream that cannot begin fails at the first read.
pub fn reader<'a>(compression: Compression, input: Box<dyn Read + Send + 'a>) -> Box<dyn Read + Send + 'a> {
    match decoder(compression, input) {
        Ok(reader) => reader,
        Err(error) => Box::new(Failed(Some(error))),
    }
}

fn decoder<'a>(
    compression: Compression,
    input: Box<dyn Read + Send + 'a>,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match compression {
        Compression::None => input,
        Compression::Gzip => Box::new(GzipReader::new(input)),
        Compression::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(input)),
        Compression::Xz => {
            Box::new(XzDecoder::new_stream(input, Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?))
        }
        Compression::Lzma => Box::new(XzDecoder::new_stream(input, Stream::new_lzma_decoder(XZ_MEMORY)?)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}

/// Reads gzip as zlib's `gzread` does, with which apt, dnf and zypper read it: what is no gzip at its start is passed
/// through, what is none after a member is left alone.
struct GzipReader<R: Read>(Option<Part<R>>);

enum Part<R: Read> {
    /// Before a member; the first one or another.
    Between(BufReader<R>, bool),
    Member(Box<GzDecoder<BufReader<R>>>, bool),
    Plain(BufReader<R>),
}

/// The first byte of a member (RFC 1952 section 2.3.1).
const GZIP_MAGIC: u8 = 0x1f;

impl<R: Read> GzipReader<R> {
    fn new(input: R) -> Self {
        Self(Some(Part::Between(BufReader::new(input), true)))
    }
}

impl<R: Read> Read for GzipReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            // What fails is put back: a read that was interrupted is tried again.
            match self.0.take() {
                None => return Ok(0),
                Some(Part::Between(mut input, is_first)) => {
                    let first = input.fill_buf().map(|bytes| bytes.first().copied());
                    let is_member = matches!(first, Ok(Some(GZIP_MAGIC)));
                    self.0 = match (&first, is_member) {
                        (Err(_), _) => Some(Part::Between(input, is_first)),
                        (_, true) => Some(Part::Member(Box::new(GzDecoder::new(input)), is_first)),
                        _ => is_first.then_some(Part::Plain(input)),
                    };
                    first?;
                }
                Some(Part::Member(mut member, is_first)) => match member.read(buffer) {
                    Ok(0) => self.0 = Some(Part::Between(member.into_inner(), false)),
                    // No member after all.
                    Err(e) if !is_first && e.kind() == io::ErrorKind::InvalidInput => return Ok(0),
                    read => {
                        self.0 = Some(Part::Member(member, is_first));
                        return read;
                    }
                },
                Some(Part::Plain(mut input)) => {
                    let read = input.read(buffer);
                    self.0 = Some(Part::Plain(input));
                    return read;
                }
            }
        }
    }
}

/// Decompresses in memory.
///
/// # Errors
/// If the data is damaged or cut, or as soon as the output exceeds `limit` bytes.
pub fn decompress(compression: Compression, bytes: &[u8], limit: u64) -> Result<Vec<u8>, FormatError> {
    let format = compression.name();
    let mut output = Vec::new();
    let read = reader(compression, Box::new(bytes)).take(limit.saturating_add(1)).read_to_end(&mut output);
    match read {
        Err(source) => Err(FormatError::Read { format, source }),
        Ok(amount) if amount as u64 > limit => Err(FormatError::TooLarge { format, limit }),
        Ok(_) => Ok(output),
    }
}

/// Stands for a decoder that could not be made.
struct Failed(Option<io::Error>);

impl Read for Failed {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(self.0.take().unwrap_or_else(|| io::Error::other("cannot set up the decoder")))
    }
}

#[cfg(test)]
mod tests {
    use liblzma::stream::{Check, Filters, LzmaOptions};
    use proptest::prelude::*;

    use super::*;

    const ALL: [Compression; 6] = [
        Compression::None,
        Compression::Gzip,
        Compression::Xz,
        Compression::Bzip2,
        Compression::Zstd,
        Compression::Lzma,
    ];

    fn all(mut reader: impl Read) -> Vec<u8> {
        let mut out = Vec::new();
        reader.read_to_end(&mut out).expect("compresses");
        out
    }

    fn compress(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        match compression {
            Compression::None => bytes.to_vec(),
            Compression::Gzip => all(flate2::read::GzEncoder::new(bytes, flate2::Compression::best())),
            Compression::Bzip2 => all(bzip2::read::BzEncoder::new(bytes, bzip2::Compression::best())),
            Compression::Zstd => zstd::encode_all(bytes, 3).expect("compresses"),
            Compression::Xz => all(liblzma::read::XzEncoder::new(bytes, 0)),
            Compression::Lzma => {
                let options = LzmaOptions::new_preset(0).expect("a preset");
                let stream = Stream::new_lzma_encoder(&options).expect("an encoder");
                all(liblzma::read::XzEncoder::new_stream(bytes, stream))
            }
        }
    }

    fn problem(result: Result<Vec<u8>, FormatError>) -> String {
        result.map(|out| format!("{} bytes", out.len())).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn suffixes() {
        for (path, stem, kind) in [
            ("main/binary-amd64/Packages.xz", "main/binary-amd64/Packages", Compression::Xz),
            ("Packages.gz", "Packages", Compression::Gzip),
            ("Packages.bz2", "Packages", Compression::Bzip2),
            ("primary.xml.zst", "primary.xml", Compression::Zstd),
            ("Packages.lzma", "Packages", Compression::Lzma),
            ("Packages", "Packages", Compression::None),
            ("primary.xml.zck", "primary.xml.zck", Compression::None),
            ("gz", "gz", Compression::None),
        ] {
            assert_eq!(Compression::strip(path), (stem, kind), "{path}");
            assert_eq!(Compression::of(path), kind, "{path}");
        }
    }

    #[test]
    fn concatenated_streams_are_one() {
        for kind in [Compression::Gzip, Compression::Xz, Compression::Bzip2, Compression::Zstd] {
            let two = [compress(kind, b"hello "), compress(kind, b"world")].concat();
            assert_eq!(decompress(kind, &two, 100).expect("two streams"), b"hello world", "{kind:?}");
        }
    }

    #[test]
    fn damage_is_an_error() {
        let text: Vec<u8> = (0..40_000u32).flat_map(|n| n.to_string().into_bytes()).collect();
        for kind in ALL.into_iter().skip(1) {
            let good = compress(kind, &text);
            for cut in [1, 4, good.len() / 2, good.len() - 1] {
                let result = problem(decompress(kind, &good[..cut], 1 << 30));
                assert_eq!(result, format!("{} cannot be read", kind.name()), "cut at {cut}");
            }
            let page = b"<html>not found</html>";
            match kind {
                // As zlib reads it. What a file must be is told by its digest.
                Compression::Gzip => assert_eq!(decompress(kind, page, 1 << 30).expect("text"), page),
                _ => assert!(decompress(kind, page, 1 << 30).is_err(), "{kind:?}"),
            }
        }
    }

    #[test]
    fn what_follows_gzip_is_left_alone() {
        let good = compress(Compression::Gzip, b"hello");
        for more in [&[0; 512][..], b"garbage", &[GZIP_MAGIC; 20]] {
            let padded = [&good, more].concat();
            assert_eq!(problem(decompress(Compression::Gzip, &padded, 100)), "5 bytes", "{more:?}");
        }
        assert_eq!(problem(decompress(Compression::Gzip, b"", 100)), "0 bytes");
    }

    #[test]
    fn bombs_stop_at_the_limit() {
        let zeros = vec![0; 16 << 20];
        for kind in ALL {
            let bomb = compress(kind, &zeros);
            let want = format!("{} data has more than 1000 bytes after decompression", kind.name());
            assert_eq!(problem(decompress(kind, &bomb, 1000)), want);
            let mut first = [1; 10];
            reader(kind, Box::new(bomb.as_slice())).read_exact(&mut first).expect("ten bytes");
            assert_eq!(first, [0; 10]);
        }
    }

    #[test]
    fn the_limit_is_exact() {
        for kind in ALL {
            let data = compress(kind, &[7; 1000]);
            assert_eq!(problem(decompress(kind, &data, 1000)), "1000 bytes");
            assert!(matches!(decompress(kind, &data, 999), Err(FormatError::TooLarge { limit: 999, .. })));
            assert_eq!(problem(decompress(kind, &data, u64::MAX)), "1000 bytes");
        }
    }

    #[test]
    fn the_largest_presets_pass_and_larger_windows_do_not() {
        let xz = |dictionary: u32| {
            let mut options = LzmaOptions::new_preset(0).expect("a preset");
            options.dict_size(dictionary);
            let stream =
                Stream::new_stream_encoder(Filters::new().lzma2(&options), Check::Crc64).expect("encoder");
            all(liblzma::read::XzEncoder::new_stream(&b"hello"[..], stream))
        };
        assert_eq!(problem(decompress(Compression::Xz, &xz(64 << 20), 100)), "5 bytes");
        assert_eq!(problem(decompress(Compression::Xz, &xz(128 << 20), 100)), "xz cannot be read");
        // RFC 8878 section 3.1.1: magic, no single segment, window descriptor, then one raw block of 1 byte.
        let zstd = |log: u8| [&[0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3], &[9, 0, 0, b'x'][..]].concat();
        assert_eq!(problem(decompress(Compression::Zstd, &zstd(27), 100)), "1 bytes");
        assert_eq!(problem(decompress(Compression::Zstd, &zstd(28), 100)), "zstd cannot be read");
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for kind in ALL {
                let _ = decompress(kind, &bytes, 1 << 20);
            }
        }

        #[test]
        fn round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            for kind in ALL {
                prop_assert_eq!(&decompress(kind, &compress(kind, &bytes), 2000).expect("good"), &bytes);
            }
        }
    }
}
