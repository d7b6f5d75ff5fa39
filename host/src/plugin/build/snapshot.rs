//! A script becomes a component: the runtime loads it, and what is then in memory is written into a component of its own.
//!
//! Same script, same bytes: the top level runs without the host. Clocks stand at the Unix epoch, and any other call of the host is an
//! error. Its memory and time are bounded.

use std::collections::BTreeMap;

use wasmtime::{
    Engine, Store, StoreLimits, StoreLimitsBuilder, Trap,
    component::{ComponentNamedList, Instance, Lift, Linker, Val, WasmList},
};
use wasmtime_wizer::{ComponentInstanceState, Wizer};

use super::{
    error::{BuildError, Problem},
    inspect,
    runtime::{self, LOAD, Runtime},
    script::Script,
    sourcemap,
};

/// The most memory a top level may take, in bytes.
const MAX_MEMORY: usize = 256 << 20;

/// What accessors return at once is the whole memory.
const MAX_RETURNED: usize = 2 * MAX_MEMORY;

/// The component of a script. Its top level is cut after `ticks` of the engine's epoch.
///
/// Tens of milliseconds of computing without a pause: to be polled where that is allowed. Dropping the future leaves nothing behind.
///
/// # Errors
/// [`BuildError::Script`] with what the top level threw, at its place in the user's files.
pub(crate) async fn snapshot(engine: &Engine, runtime: &Runtime, script: &Script, ticks: u64) -> Result<Vec<u8>, BuildError> {
    let mut store = Store::new(engine, StoreLimitsBuilder::new().memory_size(MAX_MEMORY).build());
    store.limiter(|limits| limits);
    store.set_hostcall_fuel(MAX_RETURNED);
    store.set_epoch_deadline(ticks);
    store.epoch_deadline_trap();

    let linker = linker(engine, runtime).map_err(failed)?;
    let instance = linker.instantiate_async(&mut store, runtime.component()).await.map_err(failed)?;
    load(&mut store, &instance, script).await?;

    // Copying memory is bounded by itself.
    store.set_epoch_deadline(u64::MAX / 2);
    let mut state = State { store: &mut store, instance, memories: BTreeMap::new(), failed: None };
    let snapshot = Wizer::new().snapshot_component(runtime.context()?, &mut state).await;
    if let Some(error) = state.failed {
        return Err(failed(error));
    }
    let mut component = snapshot.map_err(failed)?;
    inspect::annotate(&mut component, &script.needs, &script.positions).map_err(|error| failed(wasmtime::Error::new(error)))?;
    Ok(component)
}

/// What a snapshot is made from: equal inputs give equal components.
pub(super) fn inputs(script: &Script) -> String {
    inputs_of(&script.digest)
}

/// The same by the digest of the script.
pub(super) fn inputs_of(digest: &str) -> String {
    format!("snapshot {} {} {digest}", runtime::INSTRUMENTED_BY, runtime::DIGEST)
}

/// Clocks that stand still; whatever else is called is an error.
fn linker(engine: &Engine, runtime: &Runtime) -> wasmtime::Result<Linker<StoreLimits>> {
    let mut linker = Linker::new(engine);
    let mut wall = linker.instance("wasi:clocks/wall-clock@0.2.12")?;
    for name in ["now", "resolution"] {
        wall.func_new(name, |_, _, _, results| {
            results[0] = Val::Record(vec![("seconds".to_owned(), Val::U64(0)), ("nanoseconds".to_owned(), Val::U32(0))]);
            Ok(())
        })?;
    }
    let mut monotonic = linker.instance("wasi:clocks/monotonic-clock@0.2.12")?;
    for name in ["now", "resolution"] {
        monotonic.func_wrap(name, |_, ()| Ok((0_u64,)))?;
    }
    linker.define_unknown_imports_as_traps(runtime.component())?;
    Ok(linker)
}

async fn load(store: &mut Store<StoreLimits>, instance: &Instance, script: &Script) -> Result<(), BuildError> {
    type Arguments<'a> = (&'a str, &'a [(String, String)]);
    type Answer = (Result<(), String>,);
    let load = instance.get_typed_func::<Arguments<'_>, Answer>(&mut *store, LOAD).map_err(failed)?;
    let message = match load.call_async(&mut *store, (&script.entry, &script.modules)).await {
        Ok((Ok(()),)) => return Ok(()),
        Ok((Err(text),)) => return Err(thrown(script, &text).into()),
        Err(error) if error.downcast_ref() == Some(&Trap::Interrupt) => {
            "the top level of its modules does not come to an end: what takes long belongs into handle".to_owned()
        }
        Err(error) => format!("the top level of its modules was stopped: {}", error.root_cause()),
    };
    Err(Problem { file: script.entry.clone(), place: None, message }.into())
}

/// What the runtime said, at the first place in the user's files that it names.
fn thrown(script: &Script, text: &str) -> Problem {
    let message = script.positions.rewrite(text);
    let names = script.modules.iter().map(|(name, _)| name.as_str());
    match sourcemap::first_place(&message, names) {
        Some((file, place)) => Problem { file: file.to_owned(), place: Some(place), message },
        None => {
            // Which file is said by the problem.
            let message = message.strip_prefix(&format!("{}: ", script.entry)).map(str::to_owned).unwrap_or(message);
            Problem { file: script.entry.clone(), place: None, message }
        }
    }
}

fn failed(reason: wasmtime::Error) -> BuildError {
    BuildError::Engine { what: "the script cannot be made a component", reason }
}

/// The loaded runtime, as Wizer reads it. An accessor that fails is remembered: the trait has no way to say it.
struct State<'a> {
    store: &'a mut Store<StoreLimits>,
    instance: Instance,
    /// Memories by the function that returns them. Wizer reads each twice, and a reading makes it larger.
    memories: BTreeMap<String, Vec<u8>>,
    failed: Option<wasmtime::Error>,
}

impl State<'_> {
    async fn call<R>(&mut self, instance: &str, function: &str) -> Option<R>
    where
        R: Lift + Send + Sync + 'static,
        (R,): ComponentNamedList + Lift,
    {
        match self.try_call(instance, function).await {
            Ok(value) => Some(value),
            Err(error) => {
                self.failed.get_or_insert(error);
                None
            }
        }
    }

    async fn try_call<R>(&mut self, instance: &str, function: &str) -> wasmtime::Result<R>
    where
        R: Lift + Send + Sync + 'static,
        (R,): ComponentNamedList + Lift,
    {
        let missing = || wasmtime::Error::msg(format!("the instrumented runtime has no {instance}#{function}"));
        let interface = self.instance.get_export_index(&mut *self.store, None, instance).ok_or_else(missing)?;
        let function = self.instance.get_export_index(&mut *self.store, Some(&interface), function).ok_or_else(missing)?;
        let function = self.instance.get_typed_func::<(), (R,)>(&mut *self.store, function)?;
        let (value,) = function.call_async(&mut *self.store, ()).await?;
        Ok(value)
    }
}

impl ComponentInstanceState for State<'_> {
    async fn call_func_ret_list_u8(&mut self, instance: &str, function: &str, contents: impl FnOnce(&[u8]) + Send) {
        if !self.memories.contains_key(function) {
            let list = self.call::<WasmList<u8>>(instance, function).await;
            let memory = list.map(|list| list.as_le_slice(&*self.store).to_vec()).unwrap_or_default();
            self.memories.insert(function.to_owned(), memory);
        }
        contents(self.memories.get(function).map(Vec::as_slice).unwrap_or_default());
    }

    async fn call_func_ret_s32(&mut self, instance: &str, function: &str) -> i32 {
        self.call(instance, function).await.unwrap_or_default()
    }

    async fn call_func_ret_s64(&mut self, instance: &str, function: &str) -> i64 {
        self.call(instance, function).await.unwrap_or_default()
    }

    async fn call_func_ret_f32(&mut self, instance: &str, function: &str) -> u32 {
        self.call(instance, function).await.map(f32::to_bits).unwrap_or_default()
    }

    async fn call_func_ret_f64(&mut self, instance: &str, function: &str) -> u64 {
        self.call(instance, function).await.map(f64::to_bits).unwrap_or_default()
    }
}
