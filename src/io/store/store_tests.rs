//! Tests of the blob store: what becomes a blob, what goes first, what is found after trouble.

use super::*;
use crate::io::hasher::hash;
use crate::model::Algorithm;

fn open(dir: &Path, max_bytes: u64) -> Arc<BlobStore> {
    BlobStore::open(dir, Limits::new(max_bytes, 0), OnChange::ignore()).expect("open")
}

fn blob_of(bytes: &[u8]) -> Blob {
    let (digests, size) = hash(bytes).expect("memory");
    Blob { id: BlobId(digests.sha256), size }
}

fn put(store: &Arc<BlobStore>, bytes: &[u8]) -> Blob {
    let mut incoming = store.incoming(blob_of(bytes).into()).expect("temp file");
    incoming.write(bytes).expect("fits");
    store.commit(incoming.verify().expect("right bytes")).expect("commit").blob
}

#[test]
fn only_right_bytes_become_a_blob() {
    let dir = tempfile::tempdir().expect("temp dir");
    let store = open(dir.path(), 1 << 20);
    let (digests, _) = hash(&b"right"[..]).expect("memory");
    let expected = Expected { digest: digests.get(Algorithm::Sha512), size: Some(5) };
    let attempt = |bytes: &[u8], expected| {
        let mut incoming = store.incoming(expected).expect("temp file");
        incoming.write(bytes)?;
        incoming.verify()
    };
    assert!(matches!(attempt(b"wrong", expected), Err(VerifyError::WrongDigest { .. })));
    assert!(matches!(attempt(b"righ", expected), Err(VerifyError::WrongSize { .. })));
    assert!(matches!(attempt(b"right!", expected), Err(VerifyError::TooLong { .. })));
    let weak = Expected { digest: digests.get(Algorithm::Md5), size: Some(5) };
    assert!(matches!(attempt(b"right", weak), Err(VerifyError::Weak(_))));
    let committed = store.commit(attempt(b"right", expected).expect("right")).expect("commit");
    assert_eq!(committed.blob.id, BlobId(digests.sha256));
    assert_eq!(fs::read_dir(dir.path().join("tmp")).expect("tmp").count(), 0);
}

/// Which of these are held.
fn held(store: &BlobStore, blobs: &[Blob]) -> Vec<bool> {
    blobs.iter().map(|blob| store.size_of(blob.id).is_some()).collect()
}

#[test]
fn what_need_not_be_kept_goes_and_is_told() {
    let dir = tempfile::tempdir().expect("temp dir");
    let removed = Arc::new(Mutex::new(Vec::new()));
    let told = removed.clone();
    let tell = OnChange(Box::new(move |change| {
        if let Change::Removed(id) = change {
            told.lock().expect("no panic").push(id);
        }
    }));
    let store = BlobStore::open(dir.path(), Limits::new(1 << 20, 0), tell).expect("open");
    let (a, b) = (put(&store, b"goes"), put(&store, b"stays"));
    let (mut reader, _) = store.open_blob(a.id).expect("held");
    assert!(store.remove(a.id) && !store.remove(a.id), "only once");
    assert_eq!((held(&store, &[a, b]), store.totals()), (vec![false, true], (1, 5)));
    assert_eq!(*removed.lock().expect("no panic"), [a.id]);
    let mut text = String::new();
    io::Read::read_to_string(&mut reader, &mut text).expect("who reads reads on");
    assert_eq!(text, "goes");
    store.leave();
    assert!(!store.remove(b.id), "another process keeps it now");
}

#[test]
fn least_recently_used_goes_first_and_survives_reopening() {
    let dir = tempfile::tempdir().expect("temp dir");
    let store = open(dir.path(), 250);
    let (a, b) = (put(&store, &[1; 100]), put(&store, &[2; 100]));
    assert!(store.open_blob(a.id).is_some());
    let c = put(&store, &[3; 100]);
    assert_eq!(held(&store, &[a, b, c]), [true, false, true]);
    store.touch(a.id);
    store.save_use();
    fs::write(dir.path().join("tmp/left-over"), "x").expect("write");
    drop(store);
    let store = open(dir.path(), 250);
    assert_eq!(store.totals(), (2, 200));
    assert!(!dir.path().join("tmp/left-over").exists());
    let d = put(&store, &[4; 100]);
    assert_eq!(held(&store, &[a, c, d]), [true, false, true], "a was used last");
    let too_large = store.incoming(blob_of(&[5; 300]).into());
    assert!(matches!(too_large, Err(StoreError::NoRoom { .. })));
    assert_eq!(store.totals(), (2, 200), "nothing goes for what cannot come");
    assert_eq!(fs::read_dir(dir.path().join("tmp")).expect("tmp").count(), 0);
}

#[test]
fn what_is_arriving_counts() {
    let dir = tempfile::tempdir().expect("temp dir");
    let store = open(dir.path(), 300);
    let a = put(&store, &[1; 100]);
    let first = store.incoming(blob_of(&[2; 150]).into()).expect("beside a");
    assert_eq!(held(&store, &[a]), [true]);
    let second = store.incoming(blob_of(&[3; 150]).into()).expect("in place of a");
    assert_eq!(held(&store, &[a]), [false]);
    assert!(store.incoming(blob_of(&[4; 1]).into()).is_err(), "all is promised");
    drop(second);
    // One that nobody knows the length of takes what it needs while it grows.
    let unsized_digest = Expected { digest: blob_of(&[5; 200]).id.digest(), size: None };
    let mut grows = store.incoming(unsized_digest).expect("nothing yet");
    grows.write(&[5; 150]).expect("the rest");
    assert!(matches!(grows.write(&[5; 50]), Err(VerifyError::Store(StoreError::NoRoom { .. }))));
    drop((first, grows));
    put(&store, &[6; 300]);
    assert_eq!(store.totals(), (1, 300), "what was promised is given back");
}

#[test]
fn changes_are_told_in_order_and_ranks_decide() {
    let dir = tempfile::tempdir().expect("temp dir");
    let changes: Arc<Mutex<Vec<Change>>> = Arc::default();
    let told = changes.clone();
    let on_change = OnChange(Box::new(move |change| told.lock().expect("no panic").push(change)));
    let store = BlobStore::open(dir.path(), Limits::new(300, 0), on_change).expect("open");
    let (a, b, c) = (put(&store, &[1; 100]), put(&store, &[2; 100]), put(&store, &[3; 100]));
    store.rank(|id| match id {
        id if id == c.id => Rank::Unnamed,
        id if id == a.id => Rank::Pinned,
        _ => Rank::Named,
    });
    let d = put(&store, &[4; 150]);
    let told: Vec<Change> = changes.lock().expect("no panic").clone();
    let expected = [a, b, c].map(Change::Added).into_iter().chain([
        Change::Removed(c.id),
        Change::Removed(b.id),
        Change::Added(d),
    ]);
    assert!(told.iter().copied().eq(expected), "{told:?}");
    assert!(store.incoming(blob_of(&[5; 250]).into()).is_err(), "a is pinned");
    assert_eq!(held(&store, &[a, d]), [true, true]);
}

#[test]
fn an_altered_file_is_dropped() {
    let dir = tempfile::tempdir().expect("temp dir");
    let store = open(dir.path(), 1000);
    let blob = put(&store, &[1; 100]);
    fs::write(store.path(blob.id), "short").expect("write");
    assert!(store.open_blob(blob.id).is_none());
    assert_eq!(store.totals(), (0, 0));
    let blob = put(&store, &[1; 100]);
    assert!(store.open_blob(blob.id).is_some(), "it may come again");
    fs::remove_file(store.path(blob.id)).expect("remove");
    assert!(store.open_blob(blob.id).is_none());
    assert_eq!(store.checked(), (0, 2));
}

#[test]
fn a_failed_read_drops_only_what_is_there() {
    let dir = tempfile::tempdir().expect("temp dir");
    let store = open(dir.path(), 1000);
    let blob = put(&store, &[1; 100]);
    let (file, _) = store.open_blob(blob.id).expect("held");
    for not_its_fault in [
        io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error()),
        io::Error::other("the program ends"),
    ] {
        store.read_failed(blob.id, &not_its_fault);
        assert_eq!(store.totals(), (1, 100), "{not_its_fault}");
    }
    store.read_failed(blob.id, &io::Error::from(io::ErrorKind::UnexpectedEof));
    assert_eq!(store.totals(), (0, 0));
    store.read_failed(blob.id, &io::Error::from(io::ErrorKind::UnexpectedEof));
    assert_eq!(store.checked(), (0, 1));
    assert_eq!(file.metadata().expect("open files stay readable").len(), 100);
}
