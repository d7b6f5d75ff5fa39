//! `load`: a handler's modules become an engine that is ready to handle.

use std::cell::RefCell;

use rquickjs::promise::PromiseState;
use rquickjs::{Context, Ctx, Error, Function, Module, Object, Persistent, Runtime, Value};

use crate::errors::{caught, describe};
use crate::handle::{self, Loose};
use crate::host::{log, random};
use crate::imports;
use crate::modules::{self, Modules};
use crate::phase::{self, Phase};
use crate::{prelude, stack};

/// What stays between `load` and `handle`.
pub struct Loaded {
    pub context: Context,
    /// The handler's own function.
    pub handle: Persistent<Function<'static>>,
    /// Keeps the engine alive; the context alone does too, but what is kept should be seen.
    _runtime: Runtime,
}

thread_local! {
    static LOADED: RefCell<Option<Loaded>> = const { RefCell::new(None) };
}

pub fn with_loaded<R>(with: impl FnOnce(Option<&Loaded>) -> R) -> R {
    LOADED.with_borrow(|loaded| with(loaded.as_ref()))
}

/// How much the engine may allocate before it first looks for cycles to collect. Its own default is below what a loaded handler has, so
/// that nearly every event would begin with a walk over everything, and would copy every page of the snapshot by it.
const FIRST_COLLECTION: usize = 8 * 1024 * 1024;

/// Room that is made before the snapshot, so that handling a small event never asks for memory: growing it is the slowest thing an
/// instance can do, above all beside another that runs.
const ROOM_FOR_ENGINE: usize = 384 * 1024;
const ROOM_FOR_RUST: usize = 64 * 1024;

pub fn load(entry: &str, sources: Vec<(String, String)>) -> Result<(), String> {
    report_panics();
    if LOADED.with_borrow(Option::is_some) {
        return Err("`load` was called before: an instance loads once".to_owned());
    }
    phase::set(Phase::Loading);
    modules::set(sources);
    if !modules::contains(entry) {
        return Err(format!("there is no file {entry} among the handler's modules"));
    }

    let runtime = Runtime::new().map_err(|error| error.to_string())?;
    runtime.set_max_stack_size(stack::SCRIPTS);
    runtime.set_gc_threshold(FIRST_COLLECTION);
    runtime.set_loader(Modules, Modules);
    runtime.set_host_promise_rejection_tracker(Some(Box::new(handle::track_rejection)));
    let context = Context::full(&runtime).map_err(|error| error.to_string())?;

    let handle = context.with(|ctx| {
        let handle = evaluate(&ctx, entry).map_err(|failure| match failure {
            LoadFailure::Thrown(error) => {
                let thrown = caught(&ctx, error);
                let better = thrown
                    .as_object()
                    .and_then(|thrown| thrown.get::<_, String>("message").ok())
                    .and_then(|message| imports::missing_export(&ctx, &message));
                match better {
                    Some(better) => describe(&ctx, &caught(&ctx, better)),
                    None => describe(&ctx, &thrown),
                }
            }
            LoadFailure::Said(text) => text,
        })?;
        ctx.run_gc();
        Ok::<_, String>(handle)
    })?;

    modules::forget_loaded();
    random::unseed();
    make_room();
    LOADED.set(Some(Loaded { context, handle, _runtime: runtime }));
    phase::set(Phase::Handling);
    Ok(())
}

enum LoadFailure {
    Thrown(Error),
    Said(String),
}

impl From<Error> for LoadFailure {
    fn from(error: Error) -> Self {
        Self::Thrown(error)
    }
}

/// Run the top level of all modules; the function that handles.
fn evaluate(ctx: &Ctx<'_>, entry: &str) -> Result<Persistent<Function<'static>>, LoadFailure> {
    prelude::install(ctx)?;
    log::install_console(ctx)?;
    stack::guard_json(ctx)?;
    modules::with_sources(|sources| prelude::prepare(ctx, sources.iter().map(|(_, text)| *text)))?;

    let module = <Modules as rquickjs::loader::Loader>::load(&mut Modules, ctx, entry, None)?;
    let (module, promise) = module.eval()?;
    let loose = handle::run_jobs(ctx, Some(promise.as_value()));
    match promise.state() {
        PromiseState::Resolved => {}
        PromiseState::Rejected => {
            promise.result::<Value>().transpose()?;
        }
        PromiseState::Pending => {
            let text = format!("{entry}: the top level never finishes: it awaits a promise that nothing is left to settle");
            return Err(LoadFailure::Said(text));
        }
    }
    if let Some(Loose(text)) = loose {
        return Err(LoadFailure::Said(text));
    }
    exported(ctx, &module, entry)
}

fn exported<'js, T>(ctx: &Ctx<'js>, module: &Module<'js, T>, entry: &str) -> Result<Persistent<Function<'static>>, LoadFailure> {
    let namespace: Object = module.namespace()?;
    for name in ["handle", "default"] {
        let value: Value = namespace.get(name)?;
        if let Some(function) = value.into_function() {
            return Ok(Persistent::save(ctx, function));
        }
    }
    Err(LoadFailure::Said(format!("{entry} exports no function `handle`")))
}

unsafe extern "C" {
    fn malloc(size: usize) -> *mut core::ffi::c_void;
    fn free(memory: *mut core::ffi::c_void);
}

/// Two allocators share the memory: the engine's, of the C library, and Rust's. Both keep what is freed. The memory is not written to, so
/// it adds nothing to the snapshot.
fn make_room() {
    // SAFETY: freed as it was allocated; a null pointer may be freed.
    unsafe { free(std::hint::black_box(malloc(ROOM_FOR_ENGINE))) };
    drop(std::hint::black_box(Vec::<u8>::with_capacity(ROOM_FOR_RUST)));
}

/// A panic is a bug of this runtime, and on this target a bare trap: say at least where.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        use crate::bindings::wasi::logging::logging;
        logging::log(logging::Level::Critical, "javascript-runtime", &format!("the JavaScript runtime failed: {panic}"));
    }));
}
