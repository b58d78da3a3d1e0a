//! Signatures: whatever keyring, text or signature a mirror makes up, only what the test key signed counts,
//! and a reader of it sees what was signed.

use std::sync::LazyLock;

use manyhands::formats::clearsign;
use manyhands::formats::openpgp::Keyring;
use manyhands::formats::release::Release;

use super::first_part;

const KEYRING: &[u8] = include_bytes!("../../test-repos/keys/test.gpg");
const IN_RELEASE: &[u8] = include_bytes!("../../test-repos/t0/flat/InRelease");
const RELEASE: &[u8] = include_bytes!("../../test-repos/t0/flat/Release");
const RELEASE_GPG: &[u8] = include_bytes!("../../test-repos/t0/flat/Release.gpg");
const FINGERPRINT: &str = "D4F2935311B52228414D6CA99349A86C67C57EED";
/// 2030.
const NOW: u64 = 1_893_456_000;

static TEST_KEY: LazyLock<Keyring> = LazyLock::new(|| Keyring::parse(KEYRING).expect("the test key"));

/// A keyring: binary, or armored.
pub fn keyring(data: &[u8]) -> usize {
    let Ok(keyring) = Keyring::parse(data) else { return 0 };
    assert!(!keyring.is_empty() && keyring.len() <= data.len());
    let mut twice = keyring.clone();
    twice.merge(keyring.clone());
    assert_eq!(twice.len(), keyring.len());
    let inline = keyring.verify_clearsigned(IN_RELEASE, NOW);
    let detached = keyring.verify_detached(RELEASE, RELEASE_GPG, NOW);
    for signer in inline.iter().chain(&detached).flatten() {
        assert_eq!(signer.fingerprint, FINGERPRINT, "signed by nobody's key");
    }
    keyring.len()
}

/// A clearsigned text; or a text, a separator, and a detached signature over it.
pub fn signature(data: &[u8]) -> usize {
    let keyring = &*TEST_KEY;
    let (text, signature) = first_part(data);
    let signers = match signature {
        None => {
            let Ok(signers) = keyring.verify_clearsigned(data, NOW) else { return 0 };
            let shown = clearsign::cleartext(data).expect("it was verified");
            assert_eq!(trimmed(&shown), trimmed(RELEASE), "verified, but another text");
            let (read, signed) = (Release::parse(data), Release::parse(RELEASE));
            assert_eq!(read.expect("it was signed"), signed.expect("it was signed"));
            signers
        }
        Some(signature) => {
            let Ok(signers) = keyring.verify_detached(text, signature, NOW) else { return 0 };
            // A signature over a text, and not over bytes, does not cover the kind of line end.
            assert_eq!(trimmed(text), trimmed(RELEASE), "verified, but another text");
            signers
        }
    };
    assert!(signers.iter().all(|signer| signer.fingerprint == FINGERPRINT));
    signers.len()
}

/// The lines of a text as a cleartext signature covers them.
fn trimmed(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let text = text.strip_suffix('\n').unwrap_or(&text);
    text.split('\n').map(|line| line.trim_end_matches([' ', '\t', '\r']).to_owned()).collect()
}
