//! Keyrings and files that are broken, and the repositories of `test-repos`, which real gpg signed.
//! Keys of all kinds and states are made in `tests/openpgp.rs`.

use proptest::prelude::*;

use super::*;

const KEYRING: &[u8] = include_bytes!("../../../test-repos/keys/test.gpg");
const ARMORED: &[u8] = include_bytes!("../../../test-repos/keys/test.asc");
const IN_RELEASE: &[u8] = include_bytes!("../../../test-repos/t0/flat/InRelease");
const RELEASE: &[u8] = include_bytes!("../../../test-repos/t0/flat/Release");
const RELEASE_GPG: &[u8] = include_bytes!("../../../test-repos/t0/flat/Release.gpg");
/// 2030.
const NOW: u64 = 1_893_456_000;

fn keyring() -> Keyring {
    Keyring::parse(KEYRING).expect("the test key")
}

fn problem(result: Result<Vec<Signer>, SignatureError>) -> String {
    result.expect_err("refused").to_string()
}

#[test]
fn a_signed_repository() {
    let armored = Keyring::parse(ARMORED).expect("the test key");
    for keyring in [keyring(), armored] {
        let inline = keyring.verify_clearsigned(IN_RELEASE, NOW).expect("InRelease");
        let detached = keyring.verify_detached(RELEASE, RELEASE_GPG, NOW).expect("Release.gpg");
        for signers in [inline, detached] {
            assert_eq!(signers.len(), 1);
            assert!(signers[0].user.starts_with("manyhands test repositories"), "{:?}", signers[0]);
            assert_eq!(signers[0].fingerprint, signers[0].primary);
        }
    }
}

#[test]
fn keyrings_that_are_none() {
    let keybox = [&[0u8; 8][..], b"KBXf", &[0; 20]].concat();
    let no_end = ARMORED.strip_suffix(b"-----END PGP PUBLIC KEY BLOCK-----\n").expect("an end");
    let large = vec![b' '; MAX_KEYRING_BYTES + 1];
    let secret = include_bytes!("../../../test-repos/keys/FOR-TESTS-ONLY.secret.asc");
    for (bytes, want) in [
        (keybox.as_slice(), "keybox"),
        (b"", "no OpenPGP public key"),
        (b"<html>", "no OpenPGP public key"),
        (secret, "no OpenPGP public key"),
        (&KEYRING[..200], "no usable OpenPGP public key"),
        (RELEASE_GPG, "no OpenPGP public key"),
        (no_end, "armor"),
        (&large, "more than"),
    ] {
        let error = Keyring::parse(bytes).expect_err(want).to_string();
        assert!(error.contains(want), "{want}: {error}");
    }
}

#[test]
fn the_same_certificate_twice_is_one() {
    let twice = [KEYRING, KEYRING].concat();
    assert_eq!(Keyring::parse(&twice).expect("twice").len(), 1);
    let armored = [b"Our key:\n", ARMORED, b"\nand again\n", ARMORED].concat();
    let mut keyring = Keyring::parse(&armored).expect("twice");
    keyring.merge(self::keyring());
    assert_eq!(keyring.len(), 1);
    assert!(keyring.verify_clearsigned(IN_RELEASE, NOW).is_ok());
}

#[test]
fn what_is_not_signed() {
    let keyring = keyring();
    for bytes in [&b""[..], b"Suite: x\n", RELEASE, KEYRING] {
        assert_eq!(problem(keyring.verify_clearsigned(bytes, NOW)), "there is no signature");
    }
    for bytes in [&b""[..], b"Suite: x\n", b"<html>\n", ARMORED] {
        assert_eq!(problem(keyring.verify_detached(RELEASE, bytes, NOW)), "there is no signature");
    }
    let key = problem(keyring.verify_detached(RELEASE, KEYRING, NOW));
    assert_eq!(key, "the signature cannot be read: it holds a packet of type 6");
    let strange = Keyring::default();
    let unknown = problem(strange.verify_clearsigned(IN_RELEASE, NOW));
    assert!(unknown.starts_with("signed only by keys that are not in the keyring: "), "{unknown}");
}

#[test]
fn only_the_text_within_the_frame_counts_as_signed() {
    let keyring = keyring();
    let good = String::from_utf8(IN_RELEASE.to_vec()).expect("text");
    let (head, rest) = good.split_once("\n\n").expect("a head");
    let (text, signature) = rest.split_once("-----BEGIN PGP SIGNATURE-----").expect("a signature");
    let evil = "Origin: evil\n";
    for smuggled in [
        format!("{evil}{good}"),
        format!("{evil}\n{good}"),
        format!("{good}{evil}"),
        format!("{good}{good}"),
        format!("{head}\n\n{text} \n-----BEGIN PGP SIGNATURE-----{signature}"),
        format!("-----BEGIN PGP SIGNED MESSAGE-----\n\n{evil}{good}"),
        format!("{head}\n\n{evil}{text}-----BEGIN PGP SIGNATURE-----{signature}"),
        format!("{head}\n\n\n{text}-----BEGIN PGP SIGNATURE-----{signature}"),
        format!("{head}\n\n{text}{evil}-----BEGIN PGP SIGNATURE-----{signature}"),
        format!("{head}\n\n{text}\n-----BEGIN PGP SIGNATURE-----{signature}"),
        format!("{head}\n\n{text}- {evil}-----BEGIN PGP SIGNATURE-----{signature}"),
        format!("{head}\n\n{}-----BEGIN PGP SIGNATURE-----{signature}", text.replacen('\n', "\r", 1)),
        format!("{head}\n\n{}-----BEGIN PGP SIGNATURE-----{signature}", text.replacen('\n', "", 1)),
        format!("{head}\n\n{}-----BEGIN PGP SIGNATURE-----{signature}", text.replacen('\n', "\n ", 1)),
        format!("{head}\n\n{evil}-----BEGIN PGP SIGNATURE-----\n\n-----END PGP SIGNATURE-----\n{good}"),
    ] {
        let result = keyring.verify_clearsigned(smuggled.as_bytes(), NOW);
        assert!(result.is_err(), "{result:?}: {smuggled}");
    }
    // What such signatures do not cover, and what readers see alike.
    for same in [
        good.replace('\n', "\r\n"),
        good.replace("Hash: SHA256\n", ""),
        format!("{head}\n{evil}\n{text}-----BEGIN PGP SIGNATURE-----{signature}"),
        format!("{head}\n\n{}-----BEGIN PGP SIGNATURE-----{signature}", text.replace('\n', " \t\n")),
        format!("{head}\n\n- {text}-----BEGIN PGP SIGNATURE-----{signature}"),
        format!("{good}\n"),
    ] {
        assert!(keyring.verify_clearsigned(same.as_bytes(), NOW).is_ok(), "{same}");
        let release = super::super::release::Release::parse(same.as_bytes()).expect("a Release");
        assert_eq!(release, super::super::release::Release::parse(RELEASE).expect("a Release"), "{same}");
    }
}

#[test]
fn blank_lines_are_not_empty_ones() {
    for (line, want) in
        [("", false), ("\r", false), (" ", true), ("\t\r", true), (" .", false), ("a ", false)]
    {
        assert_eq!(is_blank(line.as_bytes()), want, "{line:?}");
    }
}

#[test]
fn the_canonical_text() {
    for (text, want) in [
        ("", ""),
        ("\n", ""),
        ("a\n", "a"),
        ("a", "a"),
        ("a\nb\n", "a\r\nb"),
        ("a \t\r\n\nb\r\n", "a\r\n\r\nb"),
        ("a\rb\n\n", "a\rb\r\n"),
        (" a\n", " a"),
    ] {
        assert_eq!(String::from_utf8_lossy(&canonical(text.as_bytes())), want, "{text:?}");
    }
}

#[test]
fn work_is_bounded() {
    let keyring = keyring();
    let many = RELEASE_GPG.repeat(MAX_SIGNATURES + 1);
    assert_eq!(problem(keyring.verify_detached(RELEASE, &many, NOW)), "there are more than 32 signatures");
    let large = vec![b'\n'; MAX_SIGNATURE_BYTES + 1];
    assert!(problem(keyring.verify_detached(RELEASE, &large, NOW)).contains("more than"));
    let several = RELEASE_GPG.repeat(2);
    assert_eq!(keyring.verify_detached(RELEASE, &several, NOW).expect("two blocks").len(), 2);
}

/// The packets of an armored file.
fn packets(armored: &[u8]) -> Vec<u8> {
    let blocks = armor::blocks(armored, armor::Kind::Signature);
    blocks.into_iter().flat_map(|block| block.expect("armor").into_owned()).collect()
}

/// Changes that leave a signature valid touch what it does not cover: its unhashed part and the framing.
fn flip(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    flipped[bit / 8] ^= 1 << (bit % 8);
    flipped
}

#[test]
fn every_flipped_bit_of_a_signature_is_noticed_or_meant_nothing() {
    let (keyring, good) = (keyring(), packets(RELEASE_GPG));
    let want = keyring.verify_detached(RELEASE, &good, NOW).expect("good");
    let accepted: Vec<usize> = (0..good.len() * 8)
        .filter(|&bit| match keyring.verify_detached(RELEASE, &flip(&good, bit), NOW) {
            Ok(signers) => {
                assert_eq!(signers, want, "bit {bit}");
                true
            }
            Err(_) => false,
        })
        .collect();
    // The issuer's key id stands in the unhashed part: 10 bytes of it, with their length.
    assert!(accepted.len() <= 12 * 8, "{accepted:?}");
}

proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let keyring = keyring();
        let _ = Keyring::parse(&bytes);
        prop_assert!(keyring.verify_clearsigned(&bytes, NOW).is_err());
        prop_assert!(keyring.verify_detached(RELEASE, &bytes, NOW).is_err());
        let packet = [&[0xc2, 0xff][..], &u32::try_from(bytes.len()).expect("few").to_be_bytes(), &bytes];
        prop_assert!(keyring.verify_detached(RELEASE, &packet.concat(), NOW).is_err());
    }

    #[test]
    fn any_bit_of_the_text(bit in 0..RELEASE.len() * 8) {
        prop_assert!(keyring().verify_detached(&flip(RELEASE, bit), RELEASE_GPG, NOW).is_err());
    }

    /// A file that still verifies still says the same.
    #[test]
    fn any_bit_of_a_clearsigned_file(bit in 0..IN_RELEASE.len() * 8) {
        let flipped = flip(IN_RELEASE, bit);
        if keyring().verify_clearsigned(&flipped, NOW).is_ok() {
            let text = clearsign::cleartext(&flipped).expect("verified");
            prop_assert_eq!(canonical(&text), canonical(RELEASE));
        }
    }

    #[test]
    fn any_change_of_a_signature(at in 0..1000usize, with in proptest::collection::vec(any::<u8>(), 0..8)) {
        let keyring = keyring();
        let good = packets(RELEASE_GPG);
        let at = at % good.len();
        let changed = [&good[..at], &with, &good[(at + with.len()).min(good.len())..]].concat();
        if let Ok(signers) = keyring.verify_detached(RELEASE, &changed, NOW) {
            prop_assert_eq!(signers, keyring.verify_detached(RELEASE, &good, NOW).expect("good"));
        }
    }

    #[test]
    fn any_change_of_a_keyring(at in 0..5000usize, with in proptest::collection::vec(any::<u8>(), 1..8)) {
        let at = at % KEYRING.len();
        let changed = [&KEYRING[..at], &with, &KEYRING[(at + with.len()).min(KEYRING.len())..]].concat();
        if let Ok(keyring) = Keyring::parse(&changed) {
            let _ = keyring.verify_clearsigned(IN_RELEASE, NOW);
        }
    }
}

#[test]
fn the_beginning_of_a_signature_fits_nothing() {
    let cut = "-----BEGIN PGP SIGNATURE-----\n\niQIzBAABCAAdFiEE\n";
    for signature in ["", " \n", cut] {
        assert!(!super::detached_fits(b"text", signature.as_bytes()), "{signature:?}");
    }
    // What cannot be read may be newer than this program: clients judge it.
    assert!(super::detached_fits(b"text", b"something else"));
}
