//! What can be read of a file while it is on its way from a source that sends other bytes.

use std::net::SocketAddr;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::io::body::Body;
use crate::io::hasher::hash;
use crate::io::store::{Limits, OnChange};
use crate::model::Pieces;

const PIECE: usize = 256 << 10;

/// Answers every request with these bytes.
async fn source(bytes: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let bytes = bytes.clone();
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = socket.read(&mut head).await;
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
                let _ = socket.write_all(answer.as_bytes()).await;
                let _ = socket.write_all(&bytes).await;
            });
        }
    });
    address
}

/// What comes of it before it ends or breaks off.
async fn read_all(mut body: Body) -> Vec<u8> {
    let mut read = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        read.extend_from_slice(&frame.into_data().expect("no trailers"));
    }
    read
}

/// What could be read, and how the fetch ended.
async fn fetch(
    good: &[u8],
    sent: Vec<u8>,
    readable: Readable,
) -> (Option<Vec<u8>>, Result<Blob, FetchError>) {
    let dir = tempfile::tempdir().expect("temp dir");
    let store = BlobStore::open(dir.path(), Limits::new(1 << 30, 0), OnChange::ignore()).expect("a store");
    let db = Arc::new(Db::open(&dir.path().join("db.redb")).expect("a database"));
    let fetcher = Fetcher::new(store, db, Upstream::new().expect("TLS"));
    let (digests, size) = hash(good).expect("memory");
    let blob = Blob { id: BlobId(digests.sha256), size };
    let url = format!("http://{}/file", source(sent).await);
    let content = fetcher.get(blob, Source { urls: vec![url], peers: 1, readable, ..Source::default() });
    let Ok(Content::Arriving(flight)) = content else { panic!("{content:?}") };
    let read =
        if flight.is_readable() { Some(read_all(flight.clone().body(0..size, None)).await) } else { None };
    (read, flight.finished().await.map(|(_, blob)| blob))
}

fn digests_of_pieces(bytes: &[u8]) -> Readable {
    Readable::Pieces(bytes.chunks(PIECE).map(|piece| hash(piece).expect("memory").0.sha256).collect())
}

fn file() -> Vec<u8> {
    let bytes: Vec<u8> = (0..5 * PIECE + 1000).map(|at| (at / 7) as u8).collect();
    assert_eq!(Pieces::len_for(bytes.len() as u64), PIECE as u64);
    bytes
}

#[tokio::test]
async fn no_byte_of_a_wrong_piece_is_passed_on() {
    let good = file();
    for (wrong, may_be_read) in
        [(0, 0), (PIECE - 1, 0), (2 * PIECE + 5, 2 * PIECE), (5 * PIECE + 999, 5 * PIECE)]
    {
        let mut sent = good.clone();
        sent[wrong] ^= 1;
        let (read, ended) = fetch(&good, sent, digests_of_pieces(&good)).await;
        let read = read.expect("it is passed on");
        assert!(read.len() <= may_be_read && read == good[..read.len()], "{wrong}: {} bytes", read.len());
        assert!(matches!(ended, Err(FetchError::Wrong { .. })), "{wrong}: {ended:?}");
    }
}

#[tokio::test]
async fn right_pieces_make_the_whole() {
    let good = file();
    let (read, ended) = fetch(&good, good.clone(), digests_of_pieces(&good)).await;
    assert!(read.as_ref() == Some(&good));
    assert_eq!(ended.expect("right bytes").size, good.len() as u64);
}

#[tokio::test]
async fn what_cannot_be_verified_is_not_passed_on() {
    let good = file();
    let (read, ended) = fetch(&good, good.clone(), Readable::Nothing).await;
    assert_eq!(read, None);
    assert!(ended.is_ok(), "{ended:?}");
}
