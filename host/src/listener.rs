//! The HTTP listener that webhooks and queues share: a source mounts its path while it runs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use axum::Router;

/// The paths that are served, shared by the listener and the sources.
#[derive(Clone, Default)]
pub struct Routes(Arc<Inner>);

#[derive(Default)]
struct Inner {
    mounted: ArcSwap<HashMap<String, Router>>,
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
    /// Serve `path` with `router` (which has a route for that very path) until the answer is dropped. `None`: the path is taken.
    pub fn mount(&self, path: &str, router: Router) -> Option<Mounted> {
        let _change = self.0.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mounted = HashMap::clone(&self.0.mounted.load());
        if mounted.contains_key(path) {
            return None;
        }
        mounted.insert(path.to_owned(), router);
        self.0.mounted.store(Arc::new(mounted));
        Some(Mounted { routes: self.clone(), path: path.to_owned() })
    }

    /// What serves `path`.
    pub(crate) fn find(&self, path: &str) -> Option<Router> {
        self.0.mounted.load().get(path).cloned()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _change = self.routes.0.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mounted = HashMap::clone(&self.routes.0.mounted.load());
        mounted.remove(&self.path);
        self.routes.0.mounted.store(Arc::new(mounted));
    }
}
