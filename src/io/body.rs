//! Response bodies: nothing, bytes in memory, or a stream from a file, a running fetch or an upstream.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body::{Frame, SizeHint};

use super::shaper::Flow;

/// Bytes read from disk at a time: large enough that the system call costs nothing, small enough that
/// thousands of downloads fit in memory.
const CHUNK: u64 = 128 << 10;
/// The same under a shaper: a sixteenth of a second at 1 MiB/s, so that downloads alternate smoothly.
pub(super) const SHAPED_CHUNK: u64 = 32 << 10;

type BoxStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// See the module's documentation. An error breaks the connection: a client never takes it for the end.
pub enum Body {
    Empty,
    Full(Option<Bytes>),
    Stream(BoxStream),
}

impl Body {
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(Some(bytes.into()))
    }

    pub fn stream(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Self::Stream(Box::pin(stream))
    }

    /// Gives parts of `bytes`, which the ranges asked for must lie within.
    pub fn slices(bytes: Bytes) -> impl FnMut(Range<u64>) -> Self + Send + 'static {
        move |part| Self::full(bytes.slice(part.start as usize..part.end as usize))
    }

    /// A part of a file, perhaps at a bounded rate.
    pub fn file(file: Arc<File>, range: Range<u64>, flow: Option<Arc<Flow>>) -> Self {
        Self::stream(stream::try_unfold(range, move |range| {
            let (file, flow) = (file.clone(), flow.clone());
            async move {
                if range.is_empty() {
                    return Ok(None);
                }
                let limit = if flow.is_some() { SHAPED_CHUNK } else { CHUNK };
                let len = (range.end - range.start).min(limit);
                if let Some(flow) = flow {
                    flow.take(len).await;
                }
                let bytes = read_at(file, range.start, len).await?;
                Ok(Some((bytes, range.start + len..range.end)))
            }
        }))
    }

    /// One body after the other, each made when its turn comes.
    pub fn sequence(bodies: impl Iterator<Item = Self> + Send + 'static) -> Self {
        Self::stream(stream::iter(bodies).flat_map(Self::into_stream))
    }

    fn into_stream(self) -> BoxStream {
        match self {
            Self::Empty | Self::Full(None) => stream::empty().boxed(),
            Self::Full(Some(bytes)) => stream::iter([Ok(bytes)]).boxed(),
            Self::Stream(inner) => inner,
        }
    }

    /// Tells `failed` why the bytes end early, if they do.
    pub fn watched(self, failed: impl Fn(&io::Error) + Send + 'static) -> Self {
        match self {
            Self::Stream(inner) => Self::stream(inner.inspect(move |item| {
                if let Err(e) = item {
                    failed(e);
                }
            })),
            whole => whole,
        }
    }

    /// Tells `seen` how many bytes leave, as they leave.
    pub fn counted(self, seen: impl Fn(u64) + Send + 'static) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Full(bytes) => {
                seen(bytes.as_ref().map_or(0, |b| b.len() as u64));
                Self::Full(bytes)
            }
            Self::Stream(inner) => Self::stream(inner.inspect(move |item| {
                if let Ok(bytes) = item {
                    seen(bytes.len() as u64);
                }
            })),
        }
    }
}

/// Reads exactly `len` bytes without blocking the reactor; a shorter file is an error.
pub async fn read_at(file: Arc<File>, offset: u64, len: u64) -> io::Result<Bytes> {
    let read = move || {
        let mut buffer = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut buffer, offset)?;
        Ok(Bytes::from(buffer))
    };
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(stream) => stream.poll_next_unpin(cx).map(|item| item.map(|r| r.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty | Self::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Full(None) => SizeHint::with_exact(0),
            Self::Full(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "Body::Empty",
            Self::Full(_) => "Body::Full",
            Self::Stream(_) => "Body::Stream",
        })
    }
}
