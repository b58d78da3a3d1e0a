//! OpenPGP verification against real gpg: kinds of keys, states of keys, and what a signature may look like.
//!
//! Each test has a GnuPG home of its own. Keys and signatures are made on days of 2024 that the test names,
//! by gpg's faked clock, so nothing here depends on today.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use manyhands::formats::clearsign;
use manyhands::formats::openpgp::{Keyring, Reason, Refusal, SignatureError, Signer};
use pgp::composed::{Deserializable, SignedPublicKey};
use pgp::packet::SubpacketData;
use pgp::ser::Serialize;
use support::{Scratch, run_ok, test_key, test_repos};

const TEXT: &str = "Origin: Hands\nSuite: stable\nSHA256:\n 00 1 main/binary-amd64/Packages\n";
const DAY: u64 = 24 * 60 * 60;

/// Seconds since 1970 of noon on a day of 2024, counted from 0.
fn noon(day: u64) -> u64 {
    1_704_067_200 + day * DAY + DAY / 2
}

/// A GnuPG home; its agent ends with it.
struct Gpg {
    home: Scratch,
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let home = self.home.dir("h");
        let _ = Command::new("gpgconf").env("GNUPGHOME", home).args(["--kill", "all"]).status();
    }
}

impl Gpg {
    fn new() -> Self {
        let home = Scratch::new();
        let folder = home.dir("h");
        fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("ours");
        Self { home }
    }

    /// Runs gpg at noon of a day; gives what it prints.
    fn run(&self, day: u64, args: &[&str]) -> String {
        let mut command = Command::new("gpg");
        command.env("GNUPGHOME", self.home.path("h")).args(["--batch", "--yes", "--quiet", "--no-tty"]);
        command.args(["--pinentry-mode", "loopback", "--passphrase", "", "--allow-weak-digest-algos"]);
        command.arg("--faked-system-time").arg(noon(day).to_string()).args(args);
        run_ok(&mut command)
    }

    /// Makes a key on day 0 and gives its fingerprint.
    fn key(&self, name: &str, algorithm: &str, usage: &str, expire: &str) -> String {
        let id = format!("{name} <{name}@keys.example>");
        self.run(0, &["--quick-generate-key", &id, algorithm, usage, expire]);
        self.fingerprints(&id).swap_remove(0)
    }

    /// Of the primary key, then of the subkeys.
    fn fingerprints(&self, key: &str) -> Vec<String> {
        let listed = self.run(0, &["--with-colons", "--list-keys", key]);
        let fields = listed.lines().filter(|line| line.starts_with("fpr:"));
        fields.filter_map(|line| line.split(':').nth(9)).map(str::to_owned).collect()
    }

    fn export(&self, keys: &[&str], options: &[&str]) -> Vec<u8> {
        let file = self.home.path("exported");
        let output = ["--output", path(&file)];
        self.run(0, &[options, &output[..], &["--export"], keys].concat());
        fs::read(&file).expect("gpg wrote it")
    }

    fn keyring(&self, keys: &[&str]) -> Keyring {
        Keyring::parse(&self.export(keys, &[])).expect("gpg exports keyrings")
    }

    /// Signs `text` with `mode` (`--clearsign`, `--detach-sign`) and further options.
    fn sign(&self, day: u64, keys: &[&str], mode: &str, options: &[&str], text: &str) -> Vec<u8> {
        let (plain, signed) = (self.home.path("plain"), self.home.path("signed"));
        fs::write(&plain, text).expect("writable");
        let users: Vec<&str> = keys.iter().flat_map(|key| ["--local-user", key]).collect();
        self.run(day, &[options, &users[..], &["--output", path(&signed), mode, path(&plain)]].concat());
        fs::read(&signed).expect("gpg wrote it")
    }

    fn clearsign(&self, day: u64, keys: &[&str]) -> Vec<u8> {
        self.sign(day, keys, "--clearsign", &[], TEXT)
    }

    /// Answers the questions of `--edit-key`.
    fn edit(&self, key: &str, answers: &str) {
        let file = self.home.path("answers");
        fs::write(&file, answers).expect("writable");
        let script = format!(
            "gpg --no-tty --quiet --faked-system-time {} --pinentry-mode loopback --passphrase '' \
             --command-file {} --status-fd 2 --edit-key {key}",
            noon(20),
            path(&file)
        );
        run_ok(Command::new("sh").env("GNUPGHOME", self.home.path("h")).arg("-c").arg(script));
    }

    /// Imports the revocation certificate that gpg makes along with each key.
    fn revoke(&self, fingerprint: &str) {
        let file = self.home.path(&format!("h/openpgp-revocs.d/{fingerprint}.rev"));
        let text = fs::read_to_string(&file).expect("gpg makes one");
        fs::write(&file, text.replace(":-----BEGIN", "-----BEGIN")).expect("writable");
        self.run(20, &["--import", path(&file)]);
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn signed_by(result: Result<Vec<Signer>, SignatureError>) -> Vec<String> {
    result.expect("accepted").into_iter().map(|signer| signer.fingerprint).collect()
}

/// The reasons, one for each signature.
fn reasons(result: Result<Vec<Signer>, SignatureError>) -> Vec<Reason> {
    match result.expect_err("refused") {
        SignatureError::Refused { refusals } => refusals.into_iter().map(|r| r.reason).collect(),
        other => panic!("{other}"),
    }
}

/// No flipped bit panics; a signature that still counts says the same, since the bit was not covered.
fn flip_every_bit(keyring: &Keyring, signature: &[u8], now: u64) {
    let want = keyring.verify_detached(TEXT.as_bytes(), signature, now).expect("good");
    let mut accepted = 0;
    for bit in 0..signature.len() * 8 {
        let mut flipped = signature.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(signers) = keyring.verify_detached(TEXT.as_bytes(), &flipped, now) {
            assert_eq!(signers, want, "bit {bit}");
            accepted += 1;
        }
    }
    assert!(accepted <= 12 * 8, "{accepted} bits mean nothing");
}

#[test]
fn kinds_of_keys_keyrings_and_signatures() {
    let gpg = Gpg::new();
    for algorithm in ["rsa2048", "dsa2048", "ed25519", "nistp256", "nistp384", "nistp521"] {
        let key = gpg.key(algorithm, algorithm, "sign", "never");
        let inline = gpg.clearsign(1, &[&key]);
        let (armored, binary, as_text) = (
            gpg.sign(1, &[&key], "--detach-sign", &["--armor"], TEXT),
            gpg.sign(1, &[&key], "--detach-sign", &[], TEXT),
            gpg.sign(1, &[&key], "--detach-sign", &["--textmode"], TEXT),
        );
        for options in [&[][..], &["--armor"]] {
            let keyring = Keyring::parse(&gpg.export(&[&key], options)).expect("exported");
            assert_eq!(keyring.len(), 1);
            assert_eq!(
                signed_by(keyring.verify_clearsigned(&inline, noon(2))),
                [key.as_str()],
                "{algorithm}"
            );
            for signature in [&armored, &binary, &as_text] {
                let signers = keyring.verify_detached(TEXT.as_bytes(), signature, noon(2)).expect(algorithm);
                let user = format!("{algorithm} <{algorithm}@keys.example>");
                let want = Signer { fingerprint: key.clone(), primary: key.clone(), user, created: noon(1) };
                assert!(signers[0].created.abs_diff(want.created) < 600, "{signers:?}");
                assert_eq!(signers, [Signer { created: signers[0].created, ..want }]);
                let other = TEXT.replace("stable", "unstable");
                let refused = keyring.verify_detached(other.as_bytes(), signature, noon(2));
                assert_eq!(reasons(refused), [Reason::Bad], "{algorithm}");
            }
        }
        flip_every_bit(&gpg.keyring(&[&key]), &binary, noon(2));
        let tampered = String::from_utf8(inline).expect("text").replace("stable", "unstable");
        let refused = gpg.keyring(&[&key]).verify_clearsigned(tampered.as_bytes(), noon(2));
        assert_eq!(reasons(refused), [Reason::Bad], "{algorithm}");
    }
    // All of them in one file, and one armor block after the other.
    let all = gpg.clearsign(1, &["rsa2048", "ed25519"]);
    assert_eq!(gpg.keyring(&[]).len(), 6);
    let blocks = [gpg.export(&["rsa2048"], &["--armor"]), gpg.export(&["ed25519"], &["--armor"])].concat();
    let keyring = Keyring::parse(&blocks).expect("two blocks");
    assert_eq!((keyring.len(), signed_by(keyring.verify_clearsigned(&all, noon(2))).len()), (2, 2));
}

#[test]
fn texts_that_gpg_escapes_and_trims() {
    let gpg = Gpg::new();
    let key = gpg.key("a", "ed25519", "sign", "never");
    let keyring = gpg.keyring(&[&key]);
    for (text, want) in [
        ("a: b", "a: b\n"),
        ("a: b\n\n", "a: b\n\n"),
        ("-----BEGIN PGP SIGNED MESSAGE-----\n- a\n-\n", "-----BEGIN PGP SIGNED MESSAGE-----\n- a\n-\n"),
        ("From a\nb", "From a\nb\n"),
        ("\n\na: b\n", "\n\na: b\n"),
        ("a: b \t\nc: d\r\n e\r\n", "a: b \t\nc: d\r\n e\r\n"),
        ("a\rb\n", "a\rb\n"),
    ] {
        let signed = gpg.sign(1, &[&key], "--clearsign", &[], text);
        let shown = String::from_utf8_lossy(&signed);
        assert_eq!(signed_by(keyring.verify_clearsigned(&signed, noon(2))), [key.as_str()], "{shown}");
        let read = clearsign::cleartext(&signed).expect("a frame");
        assert_eq!(String::from_utf8_lossy(&read), want, "{shown}");
    }
    let blank = gpg.sign(1, &[&key], "--clearsign", &[], "a: b\n \nc: d\n");
    let error = keyring.verify_clearsigned(&blank, noon(2)).expect_err("a line of blanks");
    assert!(matches!(error, SignatureError::BlankLine), "{error}");
}

#[test]
fn one_known_signer_of_several_is_enough() {
    let gpg = Gpg::new();
    let keys = ["a", "b", "c"].map(|name| gpg.key(name, "ed25519", "sign", "never"));
    let [a, b, c] = keys.each_ref().map(String::as_str);
    let inline = gpg.clearsign(1, &[a, b]);
    for (known, want) in [(a, a), (b, b)] {
        assert_eq!(signed_by(gpg.keyring(&[known]).verify_clearsigned(&inline, noon(2))), [want]);
    }
    let error = gpg.keyring(&[c]).verify_clearsigned(&inline, noon(2)).expect_err("both unknown");
    assert_eq!(error.to_string(), format!("signed only by keys that are not in the keyring: {a}, {b}"));
    let SignatureError::Refused { refusals } = error else { panic!("{error}") };
    assert_eq!(refusals[1], Refusal { key: b.to_owned(), reason: Reason::UnknownKey });
    // Release.gpg as archives make it: one file, several signers, each in an armor block of its own.
    let apart = [a, b].map(|key| gpg.sign(1, &[key], "--detach-sign", &["--armor"], TEXT)).concat();
    let keyring = gpg.keyring(&[b]);
    assert_eq!(signed_by(keyring.verify_detached(TEXT.as_bytes(), &apart, noon(2))), [b]);
    // A signature over another text helps nobody.
    let mixed = [
        gpg.sign(1, &[a], "--detach-sign", &[], TEXT),
        gpg.sign(1, &[b], "--detach-sign", &[], "other text"),
    ]
    .concat();
    let refused = gpg.keyring(&[b, c]).verify_detached(TEXT.as_bytes(), &mixed, noon(2));
    assert_eq!(reasons(refused), [Reason::UnknownKey, Reason::Bad]);
    // A signed message is not a detached signature.
    let message = gpg.sign(1, &[a], "--sign", &["--compress-algo", "none"], TEXT);
    let error = gpg.keyring(&[a]).verify_detached(TEXT.as_bytes(), &message, noon(2)).expect_err("a message");
    assert!(error.to_string().contains("holds a packet of type 4"), "{error}");
}

#[test]
fn subkeys() {
    let gpg = Gpg::new();
    let primary = gpg.key("a", "ed25519", "cert", "never");
    for algorithm in ["rsa2048", "ed25519"] {
        gpg.run(0, &["--quick-add-key", &primary, algorithm, "sign", "never"]);
    }
    gpg.run(0, &["--quick-add-key", &primary, "ed25519", "sign", "10d"]);
    let subkeys: Vec<String> = gpg.fingerprints(&primary).split_off(1);
    let files: Vec<Vec<u8>> = subkeys.iter().map(|key| gpg.clearsign(1, &[&format!("{key}!")])).collect();
    let before = gpg.keyring(&[&primary]);
    for (file, subkey) in files.iter().zip(&subkeys) {
        let signers = before.verify_clearsigned(file, noon(2)).expect("a subkey");
        assert_eq!((&signers[0].fingerprint, &signers[0].primary), (subkey, &primary));
    }
    let [Reason::KeyExpired { since }] = reasons(before.verify_clearsigned(&files[2], noon(11)))[..] else {
        panic!("the third subkey has expired")
    };
    assert!(since.abs_diff(noon(10)) < 600, "{since}");

    gpg.edit(&primary, "key 2\nrevkey\ny\n0\n\ny\nsave\n");
    let after = gpg.keyring(&[&primary]);
    assert_eq!(reasons(after.verify_clearsigned(&files[1], noon(30))), [Reason::KeyRevoked]);
    assert_eq!(signed_by(after.verify_clearsigned(&files[0], noon(30))), [subkeys[0].as_str()]);
    // An older copy in another file does not bring it back.
    let mut both = before;
    both.merge(after);
    assert_eq!(both.len(), 1);
    assert_eq!(reasons(both.verify_clearsigned(&files[1], noon(30))), [Reason::KeyRevoked]);
    gpg.revoke(&primary);
    let revoked = gpg.keyring(&[&primary]);
    assert_eq!(reasons(revoked.verify_clearsigned(&files[0], noon(30))), [Reason::KeyRevoked]);
}

#[test]
fn subkeys_must_be_bound_both_ways() {
    let gpg = Gpg::new();
    let [ours, theirs] = ["a", "b"].map(|name| gpg.key(name, "ed25519", "cert", "never"));
    gpg.run(0, &["--quick-add-key", &theirs, "ed25519", "sign", "never"]);
    let file = gpg.clearsign(1, &[&theirs]);
    let read = |key: &str| SignedPublicKey::from_bytes(&gpg.export(&[key], &[])[..]).expect("a certificate");
    let reasons_with = |certificate: &SignedPublicKey| {
        let bytes = certificate.to_bytes().expect("serializes");
        reasons(Keyring::parse(&bytes).expect("a keyring").verify_clearsigned(&file, noon(2)))
    };
    // A stranger's subkey under our primary key.
    let mut claimed = read(&ours);
    claimed.public_subkeys = read(&theirs).public_subkeys;
    assert_eq!(reasons_with(&claimed), [Reason::KeyUnbound]);
    // Its own binding, without the subkey's consent.
    let mut one_way = read(&theirs);
    let binding = &mut one_way.public_subkeys[0].signatures[0];
    let parts: Vec<_> = binding.config().expect("version 4").unhashed_subpackets().cloned().collect();
    let consent = parts.iter().position(|part| matches!(part.data, SubpacketData::EmbeddedSignature(_)));
    binding.unhashed_subpacket_remove(consent.expect("gpg puts it there")).expect("removed");
    assert_eq!(reasons_with(&one_way), [Reason::KeyUnbound]);
    // A primary key without any self-signature.
    let mut bare = read(&theirs);
    bare.details.users.clear();
    assert_eq!(reasons_with(&bare), [Reason::KeyUnbound]);
}

#[test]
fn keys_expire_are_extended_and_revoked() {
    let gpg = Gpg::new();
    let key = gpg.key("a", "ed25519", "sign", "10d");
    let file = gpg.clearsign(1, &[&key]);
    let short = gpg.keyring(&[&key]);
    assert_eq!(signed_by(short.verify_clearsigned(&file, noon(9))), [key.as_str()]);
    let expired = short.verify_clearsigned(&file, noon(11)).expect_err("expired").to_string();
    assert!(
        expired.starts_with(&format!("signature by {key}: the key expired on 2024-01-11T12:0")),
        "{expired}"
    );

    gpg.run(5, &["--quick-set-expire", &key, "100d"]);
    let mut both = gpg.keyring(&[&key]);
    assert_eq!(signed_by(both.verify_clearsigned(&file, noon(50))), [key.as_str()]);
    both.merge(short);
    assert_eq!(signed_by(both.verify_clearsigned(&file, noon(50))), [key.as_str()]);

    gpg.revoke(&key);
    let revoked = gpg.keyring(&[&key]);
    assert_eq!(reasons(revoked.verify_clearsigned(&file, noon(50))), [Reason::KeyRevoked]);
    both.merge(revoked);
    assert_eq!(reasons(both.verify_clearsigned(&file, noon(50))), [Reason::KeyRevoked]);
}

#[test]
fn signatures_have_their_time() {
    let gpg = Gpg::new();
    let key = gpg.key("a", "ed25519", "sign", "never");
    let keyring = gpg.keyring(&[&key]);
    let ahead = gpg.clearsign(10, &[&key]);
    assert_eq!(signed_by(keyring.verify_clearsigned(&ahead, noon(9) + 600)), [key.as_str()]);
    let refused = reasons(keyring.verify_clearsigned(&ahead, noon(8)));
    assert!(
        matches!(refused[..], [Reason::Future { created }] if created.abs_diff(noon(10)) < 600),
        "{refused:?}"
    );
    let brief = gpg.sign(10, &[&key], "--clearsign", &["--default-sig-expire", "5d"], TEXT);
    assert_eq!(signed_by(keyring.verify_clearsigned(&brief, noon(14))), [key.as_str()]);
    let refused = reasons(keyring.verify_clearsigned(&brief, noon(16)));
    assert!(
        matches!(refused[..], [Reason::Expired { since }] if since.abs_diff(noon(15)) < 600),
        "{refused:?}"
    );
}

#[test]
fn a_curve_that_is_not_supported_is_named_so() {
    let gpg = Gpg::new();
    let key = gpg.key("a", "brainpoolP256r1", "sign", "never");
    let refused = reasons(gpg.keyring(&[&key]).verify_clearsigned(&gpg.clearsign(1, &[&key]), noon(2)));
    assert!(matches!(refused[..], [Reason::Unsupported { .. }]), "{refused:?}");
}

#[test]
fn weak_digests_do_not_count() {
    let gpg = Gpg::new();
    let key = gpg.key("a", "rsa2048", "sign", "never");
    let keyring = gpg.keyring(&[&key]);
    for digest in ["SHA1", "RIPEMD160", "MD5"] {
        let file = gpg.sign(1, &[&key], "--clearsign", &["--digest-algo", digest], TEXT);
        let want = Reason::WeakDigest { digest: digest.to_owned() };
        assert_eq!(reasons(keyring.verify_clearsigned(&file, noon(2))), [want]);
    }
    for digest in ["SHA224", "SHA256", "SHA384", "SHA512"] {
        let file = gpg.sign(1, &[&key], "--clearsign", &["--digest-algo", digest], TEXT);
        assert_eq!(signed_by(keyring.verify_clearsigned(&file, noon(2))), [key.as_str()], "{digest}");
    }
}

/// dnf and zypper take repomd.xml.asc by SHA-1; apt refuses Release.gpg by it.
#[test]
fn sha1_counts_beside_repomd_alone() {
    let gpg = Gpg::new();
    let key = gpg.key("a", "rsa2048", "sign", "never");
    let keyring = gpg.keyring(&[&key]);
    let sign = |digest| gpg.sign(1, &[&key], "--detach-sign", &["--armor", "--digest-algo", digest], TEXT);
    let (text, sha1) = (TEXT.as_bytes(), sign("SHA1"));
    assert_eq!(signed_by(keyring.verify_detached(text, &sha1, noon(2))), [key.as_str()]);
    let weak = |digest: &str| Reason::WeakDigest { digest: digest.to_owned() };
    assert_eq!(reasons(keyring.verify_release(text, &sha1, noon(2))), [weak("SHA1")]);
    assert_eq!(reasons(keyring.verify_detached(text, &sign("MD5"), noon(2))), [weak("MD5")]);
}

/// Keys in use are bound by SHA-1; by MD5 no key is.
#[test]
fn weak_digests_in_certificates() {
    let gpg = Gpg::new();
    for (digest, counts) in [("SHA1", true), ("MD5", false), ("RIPEMD160", false)] {
        let id = format!("{digest} <{digest}@keys.example>");
        gpg.run(0, &["--cert-digest-algo", digest, "--quick-generate-key", &id, "rsa2048", "sign", "never"]);
        let result = gpg.keyring(&[&id]).verify_clearsigned(&gpg.clearsign(1, &[&id]), noon(2));
        if counts {
            assert_eq!(signed_by(result).len(), 1, "{digest}");
        } else {
            assert_eq!(reasons(result), [Reason::KeyUnbound], "{digest}");
        }
    }
}

#[test]
fn a_key_must_be_meant_for_signing() {
    let gpg = Gpg::new();
    let key = gpg.key("a", "rsa2048", "sign", "never");
    let file = gpg.clearsign(1, &[&key]);
    assert_eq!(signed_by(gpg.keyring(&[&key]).verify_clearsigned(&file, noon(2))), [key.as_str()]);
    gpg.edit(&key, "change-usage\nS\nQ\nsave\n");
    let refused = gpg.keyring(&[&key]).verify_clearsigned(&file, noon(30));
    assert_eq!(reasons(refused), [Reason::KeyNotForSigning]);
}

#[test]
fn a_keybox_is_refused_with_advice() {
    let gpg = Gpg::new();
    gpg.key("a", "ed25519", "sign", "never");
    let keybox = fs::read(gpg.home.path("h/pubring.kbx")).expect("gpg keeps one");
    let error = Keyring::parse(&keybox).expect_err("a keybox").to_string();
    assert!(error.contains("--export"), "{error}");
}

/// RFC 9580 appendix A.3 (certificate) and A.6 (message).
#[test]
fn version_6() {
    let keyring = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n\
        xioGY4d/4xsAAAAg+U2nu0jWCmHlZ3BqZYfQMxmZu52JGggkLq2EVD34laPCsQYf\n\
        GwoAAABCBYJjh3/jAwsJBwUVCg4IDAIWAAKbAwIeCSIhBssYbE8GCaaX5NUt+mxy\n\
        KwwfHifBilZwj2Ul7Ce62azJBScJAgcCAAAAAK0oIBA+LX0ifsDm185Ecds2v8lw\n\
        gyU2kCcUmKfvBXbAf6rhRYWzuQOwEn7E/aLwIwRaLsdry0+VcallHhSu4RN6HWaE\n\
        QsiPlR4zxP/TP7mhfVEe7XWPxtnMUMtf15OyA51YBM4qBmOHf+MZAAAAIIaTJINn\n\
        +eUBXbki+PSAld2nhJh/LVmFsS+60WyvXkQ1wpsGGBsKAAAALAWCY4d/4wKbDCIh\n\
        BssYbE8GCaaX5NUt+mxyKwwfHifBilZwj2Ul7Ce62azJAAAAAAQBIKbpGG2dWTX8\n\
        j+VjFM21J0hqWlEg+bdiojWnKfA5AQpWUWtnNwDEM0g12vYxoWM8Y81W+bHBw805\n\
        I8kWVkXU6vFOi+HWvv/ira7ofJu16NnoUkhclkUrk0mXubZvyl4GBg==\n\
        -----END PGP PUBLIC KEY BLOCK-----\n";
    let message = "-----BEGIN PGP SIGNED MESSAGE-----\n\n\
        What we need from the grocery store:\n\n- - tofu\n- - vegetables\n- - noodles\n\n\
        -----BEGIN PGP SIGNATURE-----\n\n\
        wpgGARsKAAAAKQWCY5ijYyIhBssYbE8GCaaX5NUt+mxyKwwfHifBilZwj2Ul7Ce6\n\
        2azJAAAAAGk2IHZJX1AhiJD39eLuPBgiUU9wUA9VHYblySHkBONKU/usJ9BvuAqo\n\
        /FvLFuGWMbKAdA+epq7V4HOtAPlBWmU8QOd6aud+aSunHQaaEJ+iTFjP2OMW0KBr\n\
        NK2ay45cX1IVAQ==\n-----END PGP SIGNATURE-----\n";
    let keyring = Keyring::parse(keyring.as_bytes()).expect("the RFC's certificate");
    let signers = keyring.verify_clearsigned(message.as_bytes(), noon(0));
    assert_eq!(signed_by(signers), ["CB186C4F0609A697E4D52DFA6C722B0C1F1E27C18A56708F6525EC27BAD9ACC9"]);
    let refused = keyring.verify_clearsigned(message.replace("tofu", "beef").as_bytes(), noon(0));
    assert_eq!(reasons(refused), [Reason::Bad]);
}

#[test]
fn the_test_repositories_are_signed() {
    let keyring = Keyring::parse(&fs::read(test_key()).expect("the test key")).expect("a keyring");
    let now = noon(5 * 365);
    let mut checked = [0; 3];
    let mut folders: Vec<PathBuf> = ["t0", "t1"].map(test_repos).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("readable") {
            let file = entry.expect("an entry").path();
            let beside = |name: &str| fs::read(file.with_file_name(name)).expect(name);
            match file.file_name().and_then(|name| name.to_str()) {
                _ if file.is_dir() => folders.push(file),
                Some("InRelease") => {
                    let bytes = beside("InRelease");
                    assert_eq!(signed_by(keyring.verify_clearsigned(&bytes, now)).len(), 1, "{file:?}");
                    assert_eq!(*clearsign::cleartext(&bytes).expect("a frame"), beside("Release"));
                    checked[0] += 1;
                }
                Some(name @ ("Release.gpg" | "repomd.xml.asc")) => {
                    let (data, kind) = if name == "Release.gpg" { ("Release", 1) } else { ("repomd.xml", 2) };
                    let result = keyring.verify_detached(&beside(data), &beside(name), now);
                    assert_eq!(signed_by(result).len(), 1, "{file:?}");
                    checked[kind] += 1;
                }
                _ => {}
            }
        }
    }
    assert!(checked.iter().all(|&count| count >= 8), "{checked:?}");
}
