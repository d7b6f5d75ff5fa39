//! Compiling leaves the processors to calls, and what is large keeps nobody waiting.

#[cfg(target_os = "linux")]
use std::{cell::Cell, time::Instant};
use std::{
    cell::OnceCell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::available_parallelism,
    time::Duration,
};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use wasmtime::Engine;

use super::functions;

/// What is larger takes seconds, in bytes.
pub(super) const LARGE: usize = 2 << 20;

/// How much compiling what is large gives way to others, in steps of `nice`,
#[cfg(target_os = "linux")]
const LARGE_GIVES_WAY: libc::c_int = 10;
/// and what is small and has waited.
#[cfg(target_os = "linux")]
const SMALL_GIVES_WAY: libc::c_int = 5;

/// How long a component waits for idle processors before it is compiled beside all else: its new code has to serve some time.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The machine code of a component. Blocks until it is there. With `patience` there are calls to give way to, and it has so long to wait for idle
/// processors.
///
/// On threads of its own, which end with it: in the line of a pool a small component would wait for all functions of a large one before it, and
/// threads that stay keep what they had allocated, which is a lot.
pub(super) fn compile(engine: &Engine, component: &Arc<[u8]>, patience: Option<Duration>) -> wasmtime::Result<Vec<u8>> {
    let is_large = component.len() > LARGE;
    // Elsewhere nothing is idle by policy: it would be compiled twice side by side.
    if cfg!(target_os = "linux")
        && !is_large
        && let Some(patience) = patience
        && let Some(compiled) = compile_when_idle(engine, component, patience)
    {
        return compiled;
    }
    let way = match (is_large, patience) {
        (true, _) => Way::Large,
        (false, Some(_)) => Way::Beside,
        (false, None) => Way::Alone,
    };
    match threads(way, &GivenUp::default()) {
        Ok(threads) => threads.install(|| engine.precompile_component(component)),
        Err(error) => {
            tracing::warn!(%error, "no threads for compiling: it is done with those there are");
            engine.precompile_component(component)
        }
    }
}

/// Compile with what others leave of the processors, for so long at most; `None`: it took longer, and ends before its next function.
fn compile_when_idle(engine: &Engine, component: &Arc<[u8]>, patience: Duration) -> Option<wasmtime::Result<Vec<u8>>> {
    if patience.is_zero() {
        return None;
    }
    let given_up = GivenUp::default();
    let threads = threads(Way::Idle, &given_up).ok()?;
    let (done, compiled) = mpsc::sync_channel(1);
    let (engine, component) = (engine.clone(), component.clone());
    threads.spawn(move || {
        let compiled = catch_unwind(AssertUnwindSafe(|| engine.precompile_component(&component)));
        let _ = done.send(compiled);
    });
    let compiled = compiled.recv_timeout(patience).ok();
    if compiled.is_none() {
        given_up.0.store(true, Ordering::Relaxed);
    }
    compiled.map(|compiled| compiled.unwrap_or_else(|panic| resume_unwind(panic)))
}

/// Nobody waits any more for what is compiled.
#[derive(Debug, Clone, Default)]
struct GivenUp(Arc<AtomicBool>);

thread_local! {
    /// That of what this thread compiles.
    static GIVEN_UP: OnceCell<GivenUp> = const { OnceCell::new() };
}

/// Between two functions, on the thread that compiles them.
pub(super) fn between_functions() {
    // The way out of the compiler, which has none of its own; no panic, of which somebody would be told.
    if GIVEN_UP.with(|given_up| given_up.get().is_some_and(|GivenUp(given_up)| given_up.load(Ordering::Relaxed))) {
        resume_unwind(Box::new("given up"));
    }
    rest();
}

/// How a component is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Nobody is in the way.
    Alone,
    /// There is much of it, and others have more of the processors meanwhile.
    Large,
    /// It is small, and found no idle processor in time.
    Beside,
    /// Others have all they want.
    Idle,
}

fn threads(way: Way, given_up: &GivenUp) -> Result<ThreadPool, ThreadPoolBuildError> {
    let processors = available_parallelism().map_or(1, |n| n.get());
    // A small one is soon done, and leaves processors to calls alone.
    let threads = if matches!(way, Way::Alone | Way::Large) { processors } else { (processors / 2).max(1) };
    let given_up = given_up.clone();
    let begin = move |_| {
        give_way(way);
        GIVEN_UP.with(|here| _ = here.set(given_up.clone()));
        if way == Way::Large {
            // It would push out all else.
            functions::keep_nothing();
        }
    };
    ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("compile {n}")).start_handler(begin).build()
}

/// What is small runs when nothing else wants to, at first. A priority that is merely low would not do: whoever wakes up waits for the time
/// slice of what runs, and only what is idle by policy is put aside at once. What is large would come to no end like that on a machine that is
/// busy.
///
/// Elsewhere than on Linux, where threads have no priorities of their own, the system decides.
#[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "there is no such thing"))]
fn give_way(way: Way) {
    #[cfg(target_os = "linux")]
    match way {
        Way::Alone => {}
        // SAFETY: both mean the calling thread alone. Where it is refused the thread runs as any other.
        Way::Large => unsafe { _ = libc::nice(LARGE_GIVES_WAY) },
        // SAFETY: as above.
        Way::Beside => unsafe { _ = libc::nice(SMALL_GIVES_WAY) },
        Way::Idle => {
            let parameter = libc::sched_param { sched_priority: 0 };
            take_short_turns();
            // SAFETY: `parameter` lives; the rest as above.
            unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameter) };
            TURN.set(Some(Turn { put_aside: put_aside(), wanted: None, computed: computed() }));
        }
    }
}

/// How long what gives way rests between two functions,
#[cfg(target_os = "linux")]
const REST: Duration = Duration::from_micros(200);
/// how long it must have computed before it does: many functions are shorter than a rest,
#[cfg(target_os = "linux")]
const COMPUTE: Duration = Duration::from_micros(300);
/// and for how long it goes on doing so after others wanted its processor.
#[cfg(target_os = "linux")]
const WANTED: Duration = Duration::from_millis(10);

/// What a thread that gives way knows of its turn on the processor.
#[cfg(target_os = "linux")]
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// How often the kernel had put it aside when it was last looked at,
    put_aside: libc::c_long,
    /// and when that had become more.
    wanted: Option<Instant>,
    /// How long it had computed when it last rested.
    computed: Duration,
}

#[cfg(target_os = "linux")]
thread_local! {
    /// None: it gives no way.
    static TURN: Cell<Option<Turn>> = const { Cell::new(None) };
}

/// Have the processor fall idle for a moment, if others want it.
///
/// One that falls idle takes over at once what waits for another processor. One that has anything to run does not, be it idle by policy: it
/// looks at the others every few milliseconds, and so long waits who could run here (`sched_balance_newidle` in Linux's kernel/sched/fair.c).
#[cfg_attr(target_os = "linux", expect(clippy::disallowed_methods, reason = "nothing is waited for but time"))]
fn rest() {
    #[cfg(target_os = "linux")]
    TURN.with(|kept| {
        let Some(mut turn) = kept.get() else { return };
        let put_aside = put_aside();
        if turn.put_aside != put_aside {
            (turn.put_aside, turn.wanted) = (put_aside, Some(Instant::now()));
        }
        let computed = computed();
        if turn.wanted.is_some_and(|wanted| wanted.elapsed() < WANTED) && computed.saturating_sub(turn.computed) >= COMPUTE {
            turn.computed = computed;
            std::thread::sleep(REST);
        }
        kept.set(Some(turn));
    });
}

/// How long this thread has had a processor.
#[cfg(target_os = "linux")]
fn computed() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` lives. Where it is refused nobody rests.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// How often the kernel has put this thread aside for another one.
#[cfg(target_os = "linux")]
fn put_aside() -> libc::c_long {
    // SAFETY: all of it are numbers.
    let mut usage = unsafe { std::mem::zeroed::<libc::rusage>() };
    // SAFETY: `usage` lives. Where it is refused nobody rests.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
    usage.ru_nivcsw
}

/// The shortest slice there is, in nanoseconds.
#[cfg(target_os = "linux")]
const SLICE: u64 = 100_000;

/// A process has ended when its last thread has, and a thread must run to end. On a machine where others never rest, what is idle by policy gets a
/// thousandth of a processor: with the usual slice of 3 ms a turn each three seconds, for which a host that stops would be waited for. With short
/// slices turns come as often as they are short. From Linux 6.12 on; what is older takes no notice.
#[cfg(target_os = "linux")]
fn take_short_turns() {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        // Whoever is idle by policy has no use for it, and nothing lower would be allowed to everybody.
        sched_nice: 19,
        sched_priority: 0,
        sched_runtime: SLICE,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: `attributes` lives and says its size; 0 is the calling thread. Where it is refused nothing changes.
    unsafe {
        libc::syscall(libc::SYS_sched_setattr, 0, &attributes, 0);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        borrow::Cow,
        sync::{Mutex, atomic::AtomicUsize},
    };

    use wasmtime::CacheStore;

    use super::*;

    /// What the kernel says of the calling thread.
    fn attributes() -> libc::sched_attr {
        // SAFETY: all of it are numbers.
        let mut attributes = unsafe { std::mem::zeroed::<libc::sched_attr>() };
        let size = size_of::<libc::sched_attr>() as u32;
        // SAFETY: `attributes` lives and has this size; 0 is the calling thread.
        let asked = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &mut attributes, size, 0) };
        assert_eq!(asked, 0);
        attributes
    }

    #[test]
    fn compiling_what_is_small_has_what_others_leave_in_short_turns() {
        let attributes = std::thread::spawn(|| {
            give_way(Way::Idle);
            attributes()
        });
        let attributes = attributes.join().unwrap();
        assert_eq!(attributes.sched_policy, libc::SCHED_IDLE as u32);
        // A kernel that has no such setting says 0.
        assert!([0, SLICE].contains(&attributes.sched_runtime), "{}", attributes.sched_runtime);
    }

    /// Whether whoever asks for a function's code, as between any two of them, rests first.
    fn rests(functions: &functions::Functions) -> bool {
        let began = Instant::now();
        functions.get(b"a function");
        began.elapsed() >= REST
    }

    fn compute() {
        let until = computed() + COMPUTE;
        while computed() < until {}
    }

    #[test]
    fn what_gives_way_rests_while_others_want_its_processor() {
        let compiling = || {
            let functions = functions::Functions::new();
            TURN.set(Some(Turn { put_aside: put_aside() - 1, wanted: None, computed: computed() }));
            compute();
            assert!(rests(&functions), "it was put aside");
            let has_computed_nothing = |_| {
                TURN.set(Some(Turn { put_aside: put_aside() - 1, wanted: None, computed: computed() }));
                !rests(&functions)
            };
            assert!((0..100).any(has_computed_nothing), "it rests though it computed nothing");
            let is_not_wanted = |_| {
                compute();
                !rests(&functions)
            };
            assert!((0..1_000).any(is_not_wanted), "it rests though nobody wants the processor any more");
        };
        std::thread::spawn(compiling).join().unwrap();
    }

    #[test]
    fn what_gives_no_way_never_rests() {
        rest();
        assert!(TURN.get().is_none());
    }

    fn component() -> Arc<[u8]> {
        wat::parse_str("(component (core module (func (result i32) i32.const 7)))").expect("it is valid").into()
    }

    /// Has no functions, and is asked for the first one when somebody has said so.
    #[derive(Debug)]
    struct Waits(Mutex<mpsc::Receiver<()>>, AtomicUsize);

    impl CacheStore for Waits {
        fn get(&self, _: &[u8]) -> Option<Cow<'_, [u8]>> {
            if self.1.fetch_add(1, Ordering::Relaxed) == 0 {
                self.0.lock().expect("nobody panics with it").recv().expect("somebody says so");
            }
            between_functions();
            None
        }

        fn insert(&self, _: &[u8], _: Vec<u8>) -> bool {
            true
        }
    }

    fn engine(functions: &Arc<impl CacheStore + 'static>) -> Engine {
        let mut config = wasmtime::Config::new();
        config.enable_incremental_compilation(functions.clone()).expect("there is such a thing");
        Engine::new(&config).expect("the configuration is valid")
    }

    #[test]
    fn what_finds_no_idle_processor_in_time_is_given_up_and_compiled_all_the_same() {
        let (begin, begins) = mpsc::channel();
        let functions = Arc::new(Waits(Mutex::new(begins), AtomicUsize::new(0)));
        let (engine, component) = (engine(&functions), component());
        let (given_up, is_idle) = (GivenUp::default(), mpsc::channel());
        let threads = threads(Way::Idle, &given_up).unwrap();
        let compile_it = {
            let (engine, component) = (engine.clone(), component.clone());
            move || engine.precompile_component(&component)
        };
        threads.spawn(move || _ = is_idle.0.send(catch_unwind(AssertUnwindSafe(compile_it)).is_err()));
        given_up.0.store(true, Ordering::Relaxed);
        begin.send(()).unwrap();
        assert!(is_idle.1.recv().unwrap(), "it has left the compiler");
        let compiled = compile(&engine, &component, None).unwrap();
        for patience in [Duration::ZERO, Duration::from_nanos(1), PATIENCE] {
            assert!(compiled == compile(&engine, &component, Some(patience)).unwrap());
        }
    }

    #[test]
    fn a_panic_of_the_compiler_is_one_of_whoever_waits_for_it() {
        #[derive(Debug)]
        struct Panics;
        impl CacheStore for Panics {
            fn get(&self, _: &[u8]) -> Option<Cow<'_, [u8]>> {
                panic!("of the compiler")
            }
            fn insert(&self, _: &[u8], _: Vec<u8>) -> bool {
                true
            }
        }
        let engine = engine(&Arc::new(Panics));
        let panic = catch_unwind(AssertUnwindSafe(|| compile(&engine, &component(), Some(PATIENCE)))).unwrap_err();
        assert_eq!(crate::task::panic_text(&*panic), "of the compiler");
    }

    #[test]
    fn compiling_what_is_large_or_has_waited_has_a_low_priority() {
        for (way, nice) in [(Way::Large, LARGE_GIVES_WAY), (Way::Beside, SMALL_GIVES_WAY)] {
            let attributes = std::thread::spawn(move || {
                give_way(way);
                attributes()
            });
            let attributes = attributes.join().unwrap();
            assert_eq!(attributes.sched_policy, libc::SCHED_OTHER as u32);
            assert!(attributes.sched_nice >= nice, "{way:?} {}", attributes.sched_nice);
        }
    }
}
