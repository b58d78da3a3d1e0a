//! See `manyhands_fuzz::TARGETS`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    manyhands_fuzz::dns(data);
});
