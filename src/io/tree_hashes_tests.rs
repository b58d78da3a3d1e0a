//! Reading files of trees: once, again after a change, and never beyond the verdict.

use std::sync::atomic::AtomicBool;

use http_body_util::BodyExt;

use super::*;
use crate::io::hasher::hash;
use crate::io::regular;
use crate::model::Algorithm;

struct World {
    dir: tempfile::TempDir,
    db: Arc<Db>,
    hashes: Arc<TreeHashes>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let db = Arc::new(Db::open(&dir.path().join("db")).expect("a new database"));
        let hashes = TreeHashes::new(db.clone());
        Self { dir, db, hashes }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Opened {
        fs::write(self.dir.path().join(name), bytes).expect("writable");
        self.open(name)
    }

    fn open(&self, name: &str) -> Opened {
        let path = self.dir.path().join(name);
        let (file, meta) = regular::open(&path).expect("a file");
        let fingerprint = Fingerprint::of(&meta);
        Opened { path, file: Arc::new(file), fingerprint, algorithm: Algorithm::Sha256 }
    }

    async fn read(&self, opened: &Opened) -> Known {
        self.hashes.read(opened).expect("few are read").finished().await.expect("readable")
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

#[tokio::test]
async fn a_file_is_read_once_however_many_ask_and_over_restarts() {
    let world = World::new();
    let content = bytes(9 << 20);
    let opened = world.write("a", &content);
    assert_eq!(world.hashes.known(&opened.path, &opened.fingerprint, Algorithm::Sha256), None);
    let readings: Vec<Reading> = (0..50).map(|_| world.hashes.read(&opened).expect("few are read")).collect();
    assert_eq!(readings.iter().filter(|reading| reading.is_new).count(), 1);
    for reading in readings {
        assert_eq!(reading.finished().await.expect("readable").digests, hash(&*content).expect("memory").0);
    }
    assert_eq!(world.hashes.totals(), Totals { files: 1, bytes: 9 << 20 });
    world.hashes.save().expect("writable");

    let again = TreeHashes::new(world.db.clone());
    let known = again.known(&opened.path, &opened.fingerprint, Algorithm::Sha256).expect("remembered");
    assert_eq!(BlobId(known.digests.sha256), BlobId(hash(&*content).expect("memory").0.sha256));
    assert_eq!(again.totals(), Totals::default());
}

#[tokio::test]
async fn a_change_is_read_again_and_told_once() {
    let world = World::new();
    let opened = world.write("a", b"right");
    let first = world.read(&opened).await;
    assert!(world.hashes.is_news(&opened.path, &opened.fingerprint));
    assert!(!world.hashes.is_news(&opened.path, &opened.fingerprint));
    // The same size within the same second.
    let changed = world.write("a", b"wrong");
    assert_eq!(world.hashes.known(&changed.path, &changed.fingerprint, Algorithm::Sha256), None);
    let second = world.read(&changed).await;
    assert_ne!(first.digests, second.digests);
    assert!(world.hashes.is_news(&changed.path, &changed.fingerprint));
    assert_eq!(
        world.hashes.known(&opened.path, &opened.fingerprint, Algorithm::Sha256),
        None,
        "it is no longer like that"
    );
}

#[tokio::test]
async fn rot_that_leaves_no_trace_is_found_by_reading_again() {
    let world = World::new();
    let opened = world.write("a", b"rotten");
    let right = Hashes { digests: hash(&b"as it was"[..]).expect("memory").0, pieces: None };
    let before = world.hashes.learn(opened.path.clone(), opened.fingerprint, right);
    let again = world.hashes.read_again(&opened, 2, |_| Duration::ZERO).await.expect("readable");
    assert_ne!(before.digests, again.digests);
    assert_eq!(world.hashes.known(&opened.path, &opened.fingerprint, Algorithm::Sha256), Some(again));
}

#[tokio::test]
async fn what_is_gone_or_unwanted_is_forgotten() {
    let world = World::new();
    let names: Vec<String> = (0..7).map(|n| format!("f{n}")).collect();
    for name in &names {
        world.read(&world.write(name, name.as_bytes())).await;
    }
    world.hashes.save().expect("writable");
    fs::remove_file(world.dir.path().join("f1")).expect("there");
    world.write("f2", b"another");
    let is_wanted = |path: &Path| !path.ends_with("f3");
    assert_eq!(world.hashes.clean(is_wanted).expect("readable"), 3);
    let left = world.db.tree_files_after(None, 100).expect("readable");
    let left: Vec<String> = left
        .iter()
        .map(|(path, _)| path.file_name().expect("named").to_string_lossy().into_owned())
        .collect();
    assert_eq!(left, ["f0", "f4", "f5", "f6"]);
    assert_eq!(world.hashes.clean(is_wanted).expect("readable"), 0);
}

#[tokio::test]
async fn the_last_byte_waits_for_the_verdict() {
    let world = World::new();
    let content = bytes(6 << 20);
    for (is_right, range) in [(true, 0..content.len()), (false, 0..content.len()), (true, 5 << 20..6 << 20)] {
        let opened = world.write("a", &content);
        let asked = Arc::new(AtomicBool::new(false));
        let (noted, wanted) = (asked.clone(), hash(&*content).expect("memory").0);
        let verdict = move |known: &Known| {
            noted.store(true, Relaxed);
            known.digests == wanted && is_right
        };
        let reading = world.hashes.read(&opened).expect("few are read");
        let mut body = reading.body(opened, range.start as u64..range.end as u64, Arc::new(verdict));
        let mut got = Vec::new();
        let mut failed = false;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => got.extend_from_slice(&frame.into_data().expect("only data")),
                Err(_) => failed = true,
            }
        }
        // How much of a wrong file goes out before the verdict is a matter of time; never the last byte.
        assert!(content[range.clone()].starts_with(&got) && (got.len() == range.len()) == is_right);
        assert!(failed != is_right && asked.load(Relaxed));
    }
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_sent_breaks_off() {
    let world = World::new();
    let content = bytes(300 << 10);
    let opened = world.write("a", &content);
    let whole = opened.body(0..300 << 10).collect().await.expect("unchanged").to_bytes();
    assert!(whole[..] == content);
    let mut body = opened.body(0..300 << 10);
    assert!(body.frame().await.expect("a first chunk").is_ok());
    // In place, as `rsync --inplace` does; links that come and go change nothing.
    fs::hard_link(&opened.path, world.dir.path().join("b")).expect("writable");
    assert!(opened.body(0..300 << 10).collect().await.is_ok());
    let file = File::options().write(true).open(&opened.path).expect("writable");
    file.write_all_at(b"x", 0).and_then(|()| file.set_modified(std::time::UNIX_EPOCH)).expect("writable");
    assert!(body.frame().await.expect("a second chunk").is_ok());
    assert!(body.frame().await.expect("the end").is_err());
}
