//! What comes in after the answer is known is read on for a while and thrown away.
//!
//! Whoever is refused in the middle of an upload still sends. A server that closes then may take its own answer back: the other
//! side finds a broken connection before it reads why (RFC 9112 §9.6).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures::{Stream, StreamExt};

/// Bytes that are thrown away of one request at the most; then the connection is closed, whether the other side has read or not.
const LEN_MAX: usize = 16 << 20;
/// How long they may take.
const TIME_MAX: Duration = Duration::from_secs(5);

/// The middleware.
pub(super) async fn linger(request: Request, next: Next) -> Response {
    let request = request.map(|body| {
        if body.is_end_stream() {
            return body;
        }
        Body::from_stream(Lingering { rest: Some(body.into_data_stream()) })
    });
    next.run(request).await
}

/// A body whose rest is read when nobody reads it any more.
struct Lingering {
    /// `None` once it is at its end.
    rest: Option<BodyDataStream>,
}

impl Stream for Lingering {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let next = rest.poll_next_unpin(context);
        if matches!(next, Poll::Ready(None | Some(Err(_)))) {
            self.rest = None;
        }
        next
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if let (Some(rest), Ok(runtime)) = (self.rest.take(), tokio::runtime::Handle::try_current())
        {
            // Late is as good as never: then the connection is closed.
            runtime.spawn(async { drop(tokio::time::timeout(TIME_MAX, throw_away(rest)).await) });
        }
    }
}

async fn throw_away(mut rest: BodyDataStream) {
    let mut left = LEN_MAX;
    while let Some(Ok(bytes)) = rest.next().await {
        match left.checked_sub(bytes.len()) {
            Some(less) => left = less,
            None => break,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    /// Drops a body of so many pieces of a MiB after the first, and says how many were read in all.
    async fn read_of(pieces: usize) -> usize {
        let (end, ended) = oneshot::channel::<()>();
        let read = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&read);
        let stream = futures::stream::iter(0..pieces).map(move |_| {
            // Goes with the stream.
            let _ = &end;
            count.fetch_add(1, Ordering::SeqCst);
            Ok::<_, std::io::Error>(Bytes::from(vec![0; 1 << 20]))
        });
        let rest = Body::from_stream(stream).into_data_stream();
        let mut body = Lingering { rest: Some(rest) };
        assert!(body.next().await.is_some());
        drop(body);
        assert!(ended.await.is_err(), "nothing is ever sent");
        read.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn what_nobody_reads_is_thrown_away_within_bounds() {
        assert_eq!(read_of(5).await, 5);
        assert_eq!(read_of(1_000).await, 1 + (LEN_MAX >> 20) + 1);
    }
}
