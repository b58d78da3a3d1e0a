//! A running fetch, as seen by those who wait for its bytes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use futures_util::stream;
use tokio::sync::watch;

use super::super::body::{Body, SHAPED_CHUNK, read_at};
use super::super::shaper::Flow;
use super::FetchError;
use crate::model::Blob;

/// Bytes read for one client at a time. A client that waits for bytes to come holds no buffer.
pub(super) const READ_CHUNK: u64 = 128 << 10;

#[derive(Clone, Debug)]
pub(super) enum State {
    Starting,
    /// Bytes that may be read, and the size of the whole if it is known.
    Running {
        file: Arc<File>,
        available: u64,
        size: Option<u64>,
    },
    /// The file stays readable, whatever happens to the blob.
    Done {
        file: Arc<File>,
        blob: Blob,
    },
    Failed(FetchError),
}

/// See the module's documentation. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Flight {
    pub(super) state: watch::Receiver<State>,
    /// The size that is wanted, if it is only one.
    pub(super) wanted: Option<u64>,
    /// Whether any of it may be read before the end.
    pub(super) is_readable: bool,
}

impl Flight {
    /// The size of the whole, as far as it was known before anybody was asked.
    pub fn wanted_size(&self) -> Option<u64> {
        self.wanted
    }

    pub fn is_readable(&self) -> bool {
        self.is_readable
    }

    /// Waits until bytes come; the size of the whole, or an error while nothing was sent yet.
    pub async fn size(&mut self) -> Result<u64, FetchError> {
        self.wait(|state| match state {
            State::Starting | State::Running { size: None, .. } => None,
            State::Running { size: Some(size), .. } => Some(Ok(*size)),
            State::Done { blob, .. } => Some(Ok(blob.size)),
            State::Failed(e) => Some(Err(e.clone())),
        })
        .await
    }

    /// Waits for the end.
    pub async fn finished(mut self) -> Result<(Arc<File>, Blob), FetchError> {
        self.wait(|state| match state {
            State::Starting | State::Running { .. } => None,
            State::Done { file, blob } => Some(Ok((file.clone(), *blob))),
            State::Failed(e) => Some(Err(e.clone())),
        })
        .await
    }

    /// The bytes of `range` as they arrive, perhaps at a bounded rate.
    pub fn body(self, range: Range<u64>, flow: Option<Arc<Flow>>) -> Body {
        Body::stream(stream::try_unfold((self, range), move |(mut flight, range)| {
            let flow = flow.clone();
            async move {
                if range.is_empty() {
                    return Ok(None);
                }
                let limit = if flow.is_some() { SHAPED_CHUNK } else { READ_CHUNK };
                let (file, available) = flight.available(range.start).await.map_err(io::Error::other)?;
                let len = (available.min(range.end) - range.start).min(limit);
                if let Some(flow) = flow {
                    flow.take(len).await;
                }
                let bytes = read_at(file, range.start, len).await?;
                Ok(Some((bytes, (flight, range.start + len..range.end))))
            }
        }))
    }

    /// Waits until there is more than `position`.
    async fn available(&mut self, position: u64) -> Result<(Arc<File>, u64), FetchError> {
        self.wait(|state| match state {
            State::Running { file, available, .. } if *available > position => {
                Some(Ok((file.clone(), *available)))
            }
            State::Starting | State::Running { .. } => None,
            State::Done { file, blob } => Some(Ok((file.clone(), blob.size))),
            State::Failed(e) => Some(Err(e.clone())),
        })
        .await
    }

    async fn wait<T>(
        &mut self,
        known: impl Fn(&State) -> Option<Result<T, FetchError>>,
    ) -> Result<T, FetchError> {
        let state = self.state.wait_for(|state| known(state).is_some()).await;
        state.ok().and_then(|state| known(&state)).unwrap_or_else(|| Err(FetchError::aborted()))
    }
}
