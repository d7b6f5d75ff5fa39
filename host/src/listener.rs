//! The HTTP listener that webhooks and queues share: a source mounts its path while it runs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::Request,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use tower::Service;

pub(crate) mod bearer;
mod patience;
pub(crate) mod problem;
pub(crate) mod serve;

use problem::Problem;

/// The paths that are served, shared by the listener and the sources.
#[derive(Clone, Default)]
pub struct Routes(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// `None`: a source served the path, and will again when it is back.
    mounted: ArcSwap<HashMap<String, Option<Router>>>,
    /// Serialises changes; readers never take it.
    change: Mutex<()>,
}

/// A path that is served as long as this lives.
#[must_use = "dropping it takes the path away"]
pub struct Mounted {
    routes: Routes,
    path: String,
}

impl Routes {
    /// Serve `path` with `router` (which has a route for that very path, or a fallback) until the answer is dropped. `None`: the path is taken.
    pub fn mount(&self, path: &str, router: Router) -> Option<Mounted> {
        let _change = self.0.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mounted = HashMap::clone(&self.0.mounted.load());
        if mounted.get(path).is_some_and(Option::is_some) {
            return None;
        }
        mounted.insert(path.to_owned(), Some(router));
        self.0.mounted.store(Arc::new(mounted));
        Some(Mounted { routes: self.clone(), path: path.to_owned() })
    }

    /// Somebody will serve `path` soon: until then it is unavailable, and not unknown.
    pub(crate) fn expect(&self, path: &str) {
        let _change = self.0.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mounted = HashMap::clone(&self.0.mounted.load());
        mounted.entry(path.to_owned()).or_insert(None);
        self.0.mounted.store(Arc::new(mounted));
    }

    /// Nobody will serve `path` again, unless somebody does now.
    pub(crate) fn forget(&self, path: &str) {
        let _change = self.0.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mounted = HashMap::clone(&self.0.mounted.load());
        if mounted.get(path).is_some_and(Option::is_none) {
            mounted.remove(path);
            self.0.mounted.store(Arc::new(mounted));
        }
    }

    /// Everything that is mounted, now or later, as one router. Any other path is 404; one whose source is away is 503, because a sender
    /// takes 404 for final.
    pub(crate) fn router(&self) -> Router {
        let routes = self.clone();
        Router::new().fallback(move |request: Request| async move { routes.respond(request).await })
    }

    pub(crate) async fn respond(&self, request: Request) -> Response {
        let found = self.0.mounted.load().get(request.uri().path()).cloned();
        match found {
            Some(Some(mut router)) => match router.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
            Some(None) => Problem::unavailable("the source is not running now", Duration::from_secs(1)).into_response(),
            None => Problem::new(StatusCode::NOT_FOUND, "nothing is served at this path").into_response(),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _change = self.routes.0.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mounted = HashMap::clone(&self.routes.0.mounted.load());
        mounted.insert(self.path.clone(), None);
        self.routes.0.mounted.store(Arc::new(mounted));
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    async fn status(routes: &Routes) -> u16 {
        routes.respond(Request::new(Body::empty())).await.status().as_u16()
    }

    #[tokio::test]
    async fn a_path_that_is_not_served_yet_or_just_now_is_no_unknown_one() {
        let routes = Routes::default();
        assert_eq!(status(&routes).await, 404);
        routes.expect("/");
        assert_eq!(status(&routes).await, 503, "a sender would take 404 for final");
        let mounted = routes.mount("/", Router::new().fallback(|| async { "here" })).unwrap();
        routes.expect("/");
        assert_eq!(status(&routes).await, 200);
        drop(mounted);
        assert_eq!(status(&routes).await, 503);
        routes.forget("/");
        assert_eq!(status(&routes).await, 404);
    }
}
