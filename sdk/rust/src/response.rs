//! Making the answer.

use crate::Response;
use serde::Serialize;

impl Response {
    /// 200 with JSON.
    ///
    /// # Panics
    ///
    /// When the value cannot be JSON, as a map whose keys are no strings.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Response {
        let body = serde_json::to_vec(value).unwrap_or_else(|error| panic!("the response cannot be JSON: {error}"));
        Response::bytes(body, "application/json")
    }

    /// 200 with text.
    pub fn text(text: impl Into<String>) -> Response {
        Response::bytes(text.into().into_bytes(), "text/plain; charset=utf-8")
    }

    /// 200 with bytes of a media type.
    pub fn bytes(body: impl Into<Vec<u8>>, content_type: &str) -> Response {
        Response { status: 200, headers: vec![("content-type".into(), content_type.into())], body: body.into() }
    }

    /// 204, nothing to say.
    pub fn empty() -> Response {
        Response { status: 204, headers: Vec::new(), body: Vec::new() }
    }

    /// With this status.
    pub fn status(mut self, status: u16) -> Response {
        self.status = status;
        self
    }

    /// With one more header; the content type is replaced, as there can be one.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Response {
        let name = name.to_ascii_lowercase();
        if name == "content-type" {
            self.headers.retain(|(other, _)| *other != name);
        }
        self.headers.push((name, value.into()));
        self
    }
}

impl From<()> for Response {
    fn from((): ()) -> Response {
        Response::empty()
    }
}

impl From<&str> for Response {
    fn from(text: &str) -> Response {
        Response::text(text)
    }
}

impl From<String> for Response {
    fn from(text: String) -> Response {
        Response::text(text)
    }
}

impl From<serde_json::Value> for Response {
    fn from(value: serde_json::Value) -> Response {
        Response::json(&value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        assert_eq!(Response::json(&[1, 2]).body, b"[1,2]");
        assert_eq!(Response::from("hi").body, b"hi");
        assert_eq!(Response::from(()).status, 204);
    }

    #[test]
    fn one_content_type() {
        let response = Response::text("<p>").status(201).header("Content-Type", "text/html").header("x-a", "1").header("x-a", "2");
        let headers: Vec<_> = response.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(headers, [("content-type", "text/html"), ("x-a", "1"), ("x-a", "2")]);
        assert_eq!(response.status, 201);
    }
}
