//! The one wasmtime configuration, and the clock that interrupts guests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::{aside::Aside, build::Functions};

/// How often a running guest is interrupted to see whether its deadline has passed and to let others run. Measured: a deadline is overshot
/// by at most about one tick.
pub(crate) const TICK: Duration = Duration::from_millis(5);

/// A script's interpreter needs it; deep recursion then is the script's own error and not a trap.
const WASM_STACK: usize = 2 << 20;

/// Room for host code on top of the guest's stack: too little of it would end the process.
const FIBER_STACK: usize = WASM_STACK + (1 << 20);

/// Memory that stays with its slot between instances, so that the kernel is not asked for every one of them.
const KEEP_RESIDENT: usize = 4 << 20;

/// The same without `PAGEMAP_SCAN`, where all of it is overwritten each time.
const KEEP_RESIDENT_BLIND: usize = 128 << 10;

/// What the pool is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Instances alive at once.
    pub instances: u32,
    /// The most linear memory any of them may have, in bytes.
    pub memory: usize,
}

/// Compiles and runs components. Everything that handlers do not need is off.
#[derive(Clone)]
pub struct Engine {
    engine: wasmtime::Engine,
    aside: Arc<Aside>,
    _ticker: Arc<Ticker>,
}

/// Why no engine could be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The pool would need more memory mappings than the kernel gives one process.
    #[error(
        "{instances} handler instances side by side need about {needed} memory mappings, vm.max_map_count allows {allowed}: lower `concurrency` \
         or raise the limit with `sysctl vm.max_map_count={suggested}`"
    )]
    Mappings {
        /// Instances asked for.
        instances: u32,
        /// Mappings they need.
        needed: u64,
        /// Mappings there are.
        allowed: u64,
        /// What would do.
        suggested: u64,
    },
    /// wasmtime refused, in its words.
    #[error("cannot set up the WebAssembly engine: {0}")]
    Wasmtime(String),
}

impl Engine {
    /// An engine with a pool for this many instances.
    ///
    /// # Errors
    /// When the kernel's limits do not allow it.
    pub fn new(capacity: Capacity) -> Result<Self, EngineError> {
        check_mappings(capacity.instances)?;
        let mut config = config(capacity);
        let engine = config.enable_incremental_compilation(Arc::new(Functions::new())).and_then(|config| wasmtime::Engine::new(config));
        let engine = engine.map_err(|e| EngineError::Wasmtime(format!("{e:#}")))?;
        let ticker = Ticker::start(engine.clone()).map_err(|e| EngineError::Wasmtime(e.to_string()))?;
        Ok(Self { engine, aside: Arc::new(Aside::new()), _ticker: Arc::new(ticker) })
    }

    /// The wasmtime engine.
    pub fn wasmtime(&self) -> &wasmtime::Engine {
        &self.engine
    }

    /// Where calls run that compute for long.
    pub(crate) fn aside(&self) -> &Aside {
        &self.aside
    }
}

/// The settings of `reference` benchmarks and of every host: public so that the benchmark's floor uses the very same.
pub fn config(capacity: Capacity) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(FIBER_STACK)
        // Three times cheaper calls. It refuses components with async functions, which the base world does not have.
        .concurrency_support(false)
        // Images up to this size are mapped copy-on-write instead of copied.
        .memory_guaranteed_dense_image_size(64 << 20)
        // Memory accesses are checked in the guest's code and not by protected pages behind its memory: else every growth of a memory, which is
        // the first thing that most allocators do, and its undoing are calls into the kernel that stop all other threads of the process for
        // a moment. Two threads were slower than one by that. It costs a small Rust guest that computes about a tenth.
        .signals_based_traps(false)
        .memory_guard_size(0)
        .wasm_memory64(false)
        .wasm_relaxed_simd(false)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(8))
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool(capacity)));
    config
}

fn pool(capacity: Capacity) -> PoolingAllocationConfig {
    // An instance of a component is several core instances: the adapter and shims of a WASI component, two memories of some scripts, and each
    // library of a Python component, which are more than fifty. They are counted and nothing else, where memories and tables are set aside.
    const CORE_INSTANCES: u32 = 64;
    const MEMORIES: u32 = 2;
    const TABLES: u32 = 8;
    let pagemap = pagemap_is_safe();
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(capacity.instances)
        .total_core_instances(capacity.instances * CORE_INSTANCES)
        .total_memories(capacity.instances * MEMORIES)
        .total_tables(capacity.instances * TABLES)
        .total_stacks(capacity.instances)
        .max_core_instances_per_component(CORE_INSTANCES * 2)
        .max_memories_per_component(MEMORIES)
        .max_memories_per_module(1)
        .max_tables_per_component(TABLES * 4)
        .max_tables_per_module(4)
        .table_elements(20_000)
        .max_memory_size(capacity.memory)
        .max_unused_warm_slots(capacity.instances)
        .table_keep_resident(64 << 10)
        .linear_memory_keep_resident(if pagemap { KEEP_RESIDENT } else { KEEP_RESIDENT_BLIND })
        .pagemap_scan(if pagemap { Enabled::Auto } else { Enabled::No });
    pool
}

/// `PAGEMAP_SCAN` does not see a page that was swapped out, which the next instance of the slot could then read
/// (bytecodealliance/wasmtime#14357): only without swap.
fn pagemap_is_safe() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() <= 1)
}

/// Running out of mappings ends the process (`memory allocation … failed`), so it is refused here instead.
fn check_mappings(instances: u32) -> Result<(), EngineError> {
    const PER_INSTANCE: u64 = 12;
    const BASE: u64 = 4_096;
    let Some(allowed) = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok().and_then(|s| s.trim().parse().ok()) else {
        return Ok(());
    };
    let needed = BASE + u64::from(instances) * PER_INSTANCE;
    if needed > allowed {
        return Err(EngineError::Mappings { instances, needed, allowed, suggested: needed.next_power_of_two() });
    }
    Ok(())
}

/// Moves the epoch on from a thread of its own, so that busy workers cannot hold it up. Dropping it ends the thread.
struct Ticker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    fn start(engine: wasmtime::Engine) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("epoch".into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::park_timeout(TICK);
                engine.increment_epoch();
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
