//! Reading a request's body within limits of size and time.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::listener::problem::Problem;

/// How much and how long.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// The largest body, in bytes.
    size: usize,
    /// How long the sender may send nothing.
    pause: Duration,
    /// How long the whole body may take.
    whole: Duration,
}

impl Limits {
    /// At most `size` bytes, within the times every listener has.
    pub(super) fn of(size: usize) -> Self {
        Self { size, pause: Duration::from_secs(10), whole: Duration::from_secs(60) }
    }
}

/// Read a body. What stays unread is left in `body`.
pub(super) async fn read(body: &mut Body, limits: Limits) -> Result<Bytes, Problem> {
    let whole = timeout(limits.whole, collect(body, limits)).await;
    whole.unwrap_or_else(|_| Err(too_slow("the body took too long")))
}

async fn collect(body: &mut Body, limits: Limits) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {} bytes", limits.size));
    // What Content-Length announces.
    if usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX) > limits.size {
        return Err(too_large());
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = timeout(limits.pause, body.frame()).await.map_err(|_| too_slow("the body stopped coming"))? {
        let frame = frame.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the body could not be read to its end"))?;
        // Trailers are not looked at.
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limits.size - whole.len() {
            return Err(too_large());
        }
        // The usual body is one frame, which is not copied.
        if whole.is_empty() {
            whole = BytesMut::from(data);
        } else {
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

/// Take what a refused sender is still sending, for a moment: closing the connection under it could cost it the answer.
pub(super) async fn discard(mut body: Body) {
    const AT_MOST: usize = 4 << 20;
    const FOR: Duration = Duration::from_secs(1);
    let discard = async {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > AT_MOST {
                return;
            }
        }
    };
    // Running out of time is the other way to be done.
    let _ = timeout(FOR, discard).await;
}

fn too_slow(detail: &str) -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream::{self, StreamExt};

    use super::*;

    fn in_chunks(chunks: &[&'static str]) -> Body {
        Body::from_stream(stream::iter(chunks.to_vec()).map(Ok::<_, Infallible>))
    }

    fn limits(size: usize) -> Limits {
        Limits { pause: Duration::from_secs(60), ..Limits::of(size) }
    }

    #[tokio::test]
    async fn a_body_may_be_as_large_as_the_limit_and_no_larger() {
        assert_eq!(read(&mut Body::from("12345"), limits(5)).await.unwrap(), "12345");
        assert_eq!(read(&mut in_chunks(&["12", "", "345"]), limits(5)).await.unwrap(), "12345");
        assert_eq!(read(&mut Body::empty(), limits(0)).await.unwrap(), "");
        for mut body in [Body::from("123456"), in_chunks(&["123", "456"]), in_chunks(&["123456"])] {
            assert_eq!(read(&mut body, limits(5)).await.unwrap_err().status(), StatusCode::PAYLOAD_TOO_LARGE);
        }
    }

    #[tokio::test]
    async fn an_announced_size_is_refused_before_anything_is_read() {
        let mut body = Body::from("123456");
        assert!(read(&mut body, limits(5)).await.is_err());
        assert_eq!(body.size_hint().exact(), Some(6));
    }

    #[tokio::test]
    async fn a_body_that_stops_coming_is_given_up() {
        let endless = || Body::from_stream(stream::once(async { Ok::<_, Infallible>("1") }).chain(stream::pending()));
        for limits in [Limits { pause: Duration::from_millis(1), ..limits(5) }, Limits { whole: Duration::from_millis(1), ..limits(5) }] {
            assert_eq!(read(&mut endless(), limits).await.unwrap_err().status(), StatusCode::REQUEST_TIMEOUT);
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_a_bad_request() {
        let broken = stream::iter([Ok("12"), Err(std::io::Error::other("connection lost"))]);
        let problem = read(&mut Body::from_stream(broken), limits(5)).await.unwrap_err();
        assert_eq!(problem.status(), StatusCode::BAD_REQUEST);
    }
}
