//! The machine code of single functions, from one compile to the next: of a component that was built again, most functions are what they were.
//!
//! wasmtime asks by SHA-256 of all that decides what is compiled: the whole function in the compiler's own form, and the compiler's version and
//! settings. So what one component has left here never becomes anything else's code.

use std::{borrow::Cow, cell::Cell, fmt, sync::Arc};

use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};
use wasmtime::CacheStore;

use super::compiler;

/// What all of it may take, in bytes: the engine of scripts has 3.5 MB, a small component some 100 KB. What is not used again goes first.
const MAX_SIZE: u64 = 4 << 20;
/// What one takes, about, in bytes.
const TYPICAL_SIZE: u64 = 4 << 10;

thread_local! {
    static KEEPS: Cell<bool> = const { Cell::new(true) };
}

/// What this thread compiles from now on is not kept.
pub(super) fn keep_nothing() {
    KEEPS.set(false);
}

/// Functions that were compiled.
pub(crate) struct Functions(Cache<Box<[u8]>, Arc<[u8]>, Size>);

impl Functions {
    pub(crate) fn new() -> Self {
        Self::of_size(MAX_SIZE)
    }

    fn of_size(size: u64) -> Self {
        let options = OptionsBuilder::new()
            // Each part has its share of the size, and a large function must fit.
            .shards(1)
            .weight_capacity(size)
            .estimated_items_capacity(usize::try_from(size / TYPICAL_SIZE).unwrap_or(usize::MAX))
            .build()
            .expect("both capacities are given");
        Self(Cache::with_options(options, Size, DefaultHashBuilder::default(), DefaultLifecycle::default()))
    }
}

impl CacheStore for Functions {
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
        compiler::between_functions();
        self.0.get(key).map(|code| Cow::Owned(code.to_vec()))
    }

    fn insert(&self, key: &[u8], code: Vec<u8>) -> bool {
        compiler::between_functions();
        let keeps = KEEPS.get();
        if keeps {
            self.0.insert(key.into(), code.into());
        }
        keeps
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Functions").field("count", &self.0.len()).field("bytes", &self.0.weight()).finish()
    }
}

#[derive(Clone)]
struct Size;

impl Weighter<Box<[u8]>, Arc<[u8]>> for Size {
    fn weight(&self, key: &Box<[u8]>, code: &Arc<[u8]>) -> u64 {
        (key.len() + code.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::{Config, Engine};

    use super::*;

    fn engine(functions: &Arc<Functions>) -> Engine {
        let mut config = Config::new();
        config.enable_incremental_compilation(functions.clone()).unwrap();
        Engine::new(&config).unwrap()
    }

    /// A component of ten functions, of which the first one answers with `answer`, and of some bytes that nobody reads.
    fn component(answer: u32, padding: usize) -> Vec<u8> {
        let first = format!("(func (result i32) i32.const {answer})");
        let others: String =
            (0..9).map(|n| format!("(func (param i32) (result i32) local.get 0 i32.const {n} i32.mul call 0 i32.add)")).collect();
        wat::parse_str(format!(r#"(component (core module {first} {others}) (@custom "padding" "{}"))"#, "x".repeat(padding))).unwrap()
    }

    fn compile(engine: &Engine, component: &[u8]) -> Vec<u8> {
        compiler::compile(engine, &component.into(), None).unwrap()
    }

    #[test]
    fn what_did_not_change_is_not_compiled_again_and_is_the_same_code() {
        let functions = Arc::new(Functions::new());
        let engine_that_knows = engine(&functions);
        compile(&engine_that_knows, &component(1, 0));
        let before = functions.0.len();
        assert!(before >= 10, "{functions:?}");
        let code = compile(&engine_that_knows, &component(2, 0));
        assert_eq!(functions.0.len(), before + 1, "the one that changed");
        assert!(code == compile(&engine(&Arc::new(Functions::new())), &component(2, 0)), "as if nothing had been there");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let functions = Arc::new(Functions::of_size(16 << 10));
        let engine = engine(&functions);
        for answer in 0..100 {
            compile(&engine, &component(answer, 0));
            assert!(functions.0.weight() <= 16 << 10, "{functions:?}");
        }
        assert!(!functions.0.is_empty());
    }

    #[test]
    fn of_a_large_component_nothing_is_kept() {
        let functions = Arc::new(Functions::new());
        compile(&engine(&functions), &component(1, compiler::LARGE));
        assert!(functions.0.is_empty(), "{functions:?}");
    }
}
