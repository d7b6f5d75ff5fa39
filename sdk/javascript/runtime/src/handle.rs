//! `handle`: one event.

use std::cell::RefCell;

use rquickjs::promise::PromiseState;
use rquickjs::{Ctx, Error, Persistent, Promise, Value, qjs};

use crate::answer;
use crate::bindings::exports::koksmat::plugin::handler::{Context, Event, Failure, Response};
use crate::bindings::koksmat::plugin::types::Advice;
use crate::errors::{caught, describe};
use crate::event;
use crate::load::{Loaded, with_loaded};
use crate::prelude;

pub fn handle(event: Event, context: Context) -> Result<Response, Failure> {
    with_loaded(|loaded| match loaded {
        Some(loaded) => {
            loaded.context.with(|ctx| call(&ctx, loaded, event, context).unwrap_or_else(|error| Err(failure(&ctx, &caught(&ctx, error)))))
        }
        None => Err(retry("no handler is loaded: `load` comes first".to_owned())),
    })
}

/// The outer error is what was thrown, the inner one what was decided here.
fn call(ctx: &Ctx<'_>, loaded: &Loaded, event: Event, context: Context) -> Result<Result<Response, Failure>, Error> {
    let handle = loaded.handle.clone().restore(ctx)?;
    let event = event::event(ctx, event)?;
    let context = event::context(ctx, context)?;
    let returned = handle.call::<_, Value>((event, context)).and_then(|returned| answer::promised(ctx, returned));
    let promise = returned.as_ref().ok().and_then(|returned| returned.as_promise()).cloned();

    // Everything that was begun ends before the answer, also when the handler threw.
    let loose = run_jobs(ctx, promise.as_ref().map(|promise| promise.as_value()));
    let value = match promise {
        Some(promise) => match settled(&promise) {
            Some(settled) => settled?,
            None => return Ok(Err(retry(never_settles(loose)))),
        },
        None => returned?,
    };
    if let Some(Loose(text)) = loose {
        return Ok(Err(retry(text)));
    }
    answer::response(ctx, value).map(Ok)
}

fn settled<'js>(promise: &Promise<'js>) -> Option<Result<Value<'js>, Error>> {
    match promise.state() {
        PromiseState::Pending => None,
        PromiseState::Resolved | PromiseState::Rejected => promise.result(),
    }
}

fn never_settles(loose: Option<Loose>) -> String {
    let mut text =
        "the handler's promise never settles: it waits for something, and nothing is left to run that could bring it about".to_owned();
    if let Some(Loose(why)) = loose {
        text.push_str("\nbesides: ");
        text.push_str(&why);
    }
    text
}

/// What a thrown value means for the event: Reject and Retry say it, everything else is another attempt.
fn failure<'js>(ctx: &Ctx<'js>, thrown: &Value<'js>) -> Failure {
    let is = |which: fn(&prelude::Functions) -> &Persistent<rquickjs::Function<'static>>| {
        let class = prelude::function(ctx, which).ok();
        match (thrown.as_object(), class) {
            (Some(object), Some(class)) => object.is_instance_of(class.as_value()),
            _ => false,
        }
    };
    if is(|functions| &functions.reject) {
        return Failure::Reject(reason(ctx, thrown));
    }
    if is(|functions| &functions.retry) {
        let after = thrown.as_object().and_then(|retry| retry.get::<_, Option<f64>>("after").ok().flatten());
        return Failure::Retry(Advice { reason: reason(ctx, thrown), after: after.map(|milliseconds| milliseconds as u64) });
    }
    retry(describe(ctx, thrown))
}

/// The reason as it was given, and its causes: who wrote it knows where.
fn reason<'js>(ctx: &Ctx<'js>, thrown: &Value<'js>) -> String {
    let Some(object) = thrown.as_object() else {
        return describe(ctx, thrown);
    };
    let message: Value = object.get("message").unwrap_or_else(|_| Value::new_undefined(ctx.clone()));
    let mut text = crate::inspect::shown(ctx, &message);
    let cause: Option<Value> = object.get("cause").ok();
    if let Some(cause) = cause.filter(|cause| !cause.is_undefined()) {
        text.push_str("\ncaused by: ");
        text.push_str(&describe(ctx, &cause));
    }
    text
}

fn retry(reason: String) -> Failure {
    Failure::Retry(Advice { reason, after: None })
}

/// An error that nobody waited for, described.
pub struct Loose(pub String);

struct Rejection {
    promise: *mut core::ffi::c_void,
    reason: Persistent<Value<'static>>,
}

thread_local! {
    /// Rejected promises without anyone to handle them, so far.
    static REJECTIONS: RefCell<Vec<Rejection>> = const { RefCell::new(Vec::new()) };
}

/// QuickJS tells of a promise that is rejected with no handler, and tells again when it gets one after all.
pub fn track_rejection<'js>(ctx: Ctx<'js>, promise: Value<'js>, reason: Value<'js>, handled: bool) {
    let promise = address(&promise);
    REJECTIONS.with_borrow_mut(|rejections| {
        if handled {
            rejections.retain(|rejection| rejection.promise != promise);
        } else {
            rejections.push(Rejection { promise, reason: Persistent::save(&ctx, reason) });
        }
    });
}

fn address(object: &Value<'_>) -> *mut core::ffi::c_void {
    // SAFETY: promises are objects, so the value holds a pointer; it is compared and never followed.
    unsafe { qjs::JS_VALUE_GET_PTR(object.as_raw()) }
}

/// Run what is queued, until nothing is. What went wrong unseen comes back; the result of `awaited` is looked at elsewhere.
pub fn run_jobs(ctx: &Ctx<'_>, awaited: Option<&Value<'_>>) -> Option<Loose> {
    let mut loose = None;
    loop {
        let mut job_context = std::ptr::null_mut();
        // SAFETY: the runtime of a live context, which is locked for us by `Context::with`.
        let ran = unsafe { qjs::JS_ExecutePendingJob(qjs::JS_GetRuntime(ctx.as_raw().as_ptr()), &mut job_context) };
        match ran {
            0 => break,
            1.. => {}
            _ => {
                let text = describe(ctx, &ctx.catch());
                loose.get_or_insert(Loose(text));
            }
        }
    }
    let awaited = awaited.map(address);
    let rejections = REJECTIONS.take();
    for rejection in rejections.into_iter().filter(|rejection| Some(rejection.promise) != awaited) {
        if let Ok(reason) = rejection.reason.restore(ctx) {
            let text = format!("a promise was rejected and nothing handled it (is an `await` missing?)\n{}", describe(ctx, &reason));
            loose.get_or_insert(Loose(text));
        }
    }
    loose
}
