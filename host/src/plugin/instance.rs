//! One call: a fresh instance, its limits, its deadline, its answer.

use std::{
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant, SystemTime},
};

use futures_util::poll;
use wasmtime::{Store, Trap, UpdateDeadline};

use crate::{
    event::Event,
    outcome::{Failure, Outcome, Response},
    plugin::{
        Code, Handler,
        bindings::koksmat::plugin::types as wit,
        capability::{http::Outside, logging::CallLog},
        guest::{Emission, Guest},
        limits,
        link::Linked,
        recording::Recording,
        trial::Asked,
    },
    store::{CallId, Fence, Holder, Read, Write},
};

/// What a handler is called with.
#[derive(Debug, Clone)]
pub struct Call {
    /// Which call.
    pub id: CallId,
    /// Who holds keys for it.
    pub holder: Holder,
    /// The event.
    pub event: Arc<Event>,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The same for every attempt.
    pub idempotency_key: Arc<str>,
    /// For an atomic handler.
    pub fencing_token: Option<u64>,
    /// The right to be in the lane, where hosts share it.
    pub fence: Option<Fence>,
    /// Emits between this event and one from outside.
    pub hops: u32,
    /// What its host calls give it is recorded, whatever it comes to.
    pub record: bool,
}

/// What a call came to.
#[derive(Debug)]
pub struct Finished {
    /// The code that ran: a digest.
    pub plugin: Arc<str>,
    /// The outcome, as the one table has it.
    pub outcome: Outcome,
    /// Set when the guest did not answer by itself.
    pub failure: Option<Failure>,
    /// What it read.
    pub reads: Vec<Read>,
    /// What it wants to write.
    pub writes: std::collections::BTreeMap<String, Write>,
    /// What it wants to emit.
    pub emissions: Vec<Emission>,
    /// What it had read changed before a request left: nothing of it counts, it runs again.
    pub overtaken: bool,
    /// It holds keys until its commit.
    pub holds: bool,
    /// What its host calls gave it, where it failed for good and that is recorded.
    pub recording: Option<Box<Recording>>,
    /// How long it took.
    pub took: Duration,
}

impl Finished {
    /// A call that came to nothing.
    fn failed(plugin: Arc<str>, failure: Failure) -> Self {
        Self {
            plugin,
            outcome: failure.clone().into(),
            failure: Some(failure),
            reads: Vec::new(),
            writes: Default::default(),
            emissions: Vec::new(),
            overtaken: false,
            holds: false,
            recording: None,
            took: Duration::ZERO,
        }
    }
}

/// The largest response body, in bytes.
const RESPONSE_BYTES: usize = 16 << 20;

impl Handler {
    /// Run the handler on one event in a fresh instance.
    ///
    /// Returns within the handler's timeout and about one tick of the epoch clock. Dropping the future ends the call where it is; nothing
    /// of it has happened then but requests that were already sent.
    pub async fn call(self: &Arc<Self>, call: Call) -> Finished {
        let code = self.versions.serving();
        self.call_on(code, call).await
    }

    /// The same on one version of it.
    pub(crate) async fn call_on(self: &Arc<Self>, code: Arc<Code>, call: Call) -> Finished {
        #[cfg(test)]
        if let Some(stand_in) = &self.stand_in {
            return stand_in.call(call).await;
        }
        let (id, event) = (&call.id, call.event.id.as_str());
        let log = CallLog::new(id.tenant.as_str().into(), id.handler.clone(), event.into(), call.attempt);
        self.run_aside(code, call, log, Outside::Open).await.0
    }

    /// The same with a log and a way out of its own, and the requests that were kept.
    pub(super) async fn run_aside(self: &Arc<Self>, code: Arc<Code>, call: Call, log: CallLog, outside: Outside) -> (Finished, Vec<Asked>) {
        let started = Instant::now();
        // On the heap from the start: it is large, and would be copied into each future around it.
        let call = Box::pin(self.clone().run(code, call, started, log, outside));
        self.engine.aside().run(&self.heavy, call).await
    }

    async fn run(self: Arc<Self>, code: Arc<Code>, call: Call, started: Instant, log: CallLog, outside: Outside) -> (Finished, Vec<Asked>) {
        let deadline = started + self.config.timeout;
        let guest = Guest::new(&self, &call, deadline, log.clone(), outside);
        let Some(pre) = code.pre.clone() else {
            // Nobody starts a call of it.
            let failure = Failure::Host("its code is still being compiled".into());
            return (Finished::failed(code.digest.clone(), failure), Vec::new());
        };
        let mut store = Store::new(pre.engine(), guest);
        store.limiter(|guest| &mut guest.limiter);
        store.set_hostcall_fuel(limits::HOSTCALL_BYTES);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |mut context| {
            if Instant::now() >= deadline {
                context.data_mut().timed_out = true;
                return Ok(UpdateDeadline::Interrupt);
            }
            Ok(UpdateDeadline::Yield(1))
        });

        let answer = by(deadline, invoke(&code, &pre, &mut store, &call, self.config.timeout)).await;
        log.finish();
        let guest = store.data_mut();
        let result = match answer {
            None => Err(Failure::Timeout(self.config.timeout)),
            Some(answer) => judge(answer, guest, self.config.timeout, &code),
        };
        let (outcome, failure) = match result {
            Ok(outcome) => (outcome, None),
            Err(failure) => (failure.clone().into(), Some(failure)),
        };
        let (exchanges, missed_requests) = guest.outbound.kept();
        let asked = exchanges.iter().map(Asked::of).collect();
        // Only what becomes a dead letter is made again by anybody.
        let last = match &outcome {
            Outcome::Done(_) => false,
            Outcome::Retry { .. } => call.attempt >= self.config.retry.attempts,
            Outcome::Reject { .. } => true,
        };
        let recording = (self.config.record && last || call.record).then(|| {
            let at = unix_millis(SystemTime::now() - started.elapsed());
            let mut recording = Box::new(Recording {
                at: i64::try_from(at).unwrap_or(i64::MAX),
                setup: self.setup(),
                requests: exchanges,
                missed_requests,
                ..Recording::default()
            });
            guest.effects.record(&mut recording);
            recording
        });
        let finished = Finished {
            recording,
            plugin: code.digest.clone(),
            outcome,
            failure,
            reads: guest.effects.reads(),
            writes: guest.effects.take_writes(),
            emissions: std::mem::take(&mut guest.effects.emissions),
            overtaken: guest.outbound.overtaken(),
            holds: guest.outbound.holds(),
            took: started.elapsed(),
        };
        (finished, asked)
    }
}

/// What a call answers until its deadline.
async fn by<T>(deadline: Instant, call: impl Future<Output = T>) -> Option<T> {
    let mut call = pin!(call);
    // Most calls never wait, and need no timer.
    if let Poll::Ready(answer) = poll!(&mut call) {
        return Some(answer);
    }
    tokio::select! {
        // The deadline is looked at first: a guest that would go on computing is not even asked.
        biased;
        () = tokio::time::sleep_until(deadline.into()) => None,
        answer = call => Some(answer),
    }
}

type Answer = wasmtime::Result<Result<Result<wit::Response, wit::Failure>, String>>;

/// Instantiate, load the script if the code is not a snapshot yet, call. The inner `Err(String)` is a script that does not load.
async fn invoke(code: &Code, pre: &Linked, store: &mut Store<Guest>, call: &Call, timeout: Duration) -> Answer {
    let instance = pre.instance_pre().instantiate_async(&mut *store).await?;
    if let Some(script) = &code.script {
        let load = instance.get_typed_func::<(&str, &[(String, String)]), (Result<(), String>,)>(&mut *store, &script.load)?;
        if let (Err(error),) = load.call_async(&mut *store, (&script.entry, &script.modules)).await? {
            return Ok(Err(error));
        }
    }
    let bindings = pre.bindings(&mut *store, &instance)?;
    let event = to_wit(&call.event);
    let recorded = store.data().playback().and_then(|playback| playback.at());
    let now = recorded.map_or_else(SystemTime::now, |at| SystemTime::UNIX_EPOCH + Duration::from_millis(at.unsigned_abs()));
    let context = wit::Context {
        tenant: call.id.tenant.to_string(),
        handler: call.id.handler.to_string(),
        attempt: call.attempt,
        idempotency_key: call.idempotency_key.to_string(),
        deadline: unix_millis(now + timeout),
        fencing_token: call.fencing_token,
        traceparent: call.event.traceparent().map(str::to_owned),
    };
    bindings.koksmat_plugin_handler().call_handle(&mut *store, &event, &context).await.map(Ok)
}

/// The guest's answer, or what kept it from answering, as an outcome.
fn judge(answer: Answer, guest: &Guest, timeout: Duration, code: &Code) -> Result<Outcome, Failure> {
    let out_of_memory = || Failure::OutOfMemory { limit: guest.handler.memory };
    if let Some(failure) = &guest.host_failure {
        return Err(Failure::Host(failure.clone()));
    }
    match answer {
        Err(_) if guest.timed_out => Err(Failure::Timeout(timeout)),
        Err(_) if guest.limiter.denied() => Err(out_of_memory()),
        Err(error) => Err(Failure::Trap(code.positions.rewrite(&trap_text(&error)))),
        Ok(Err(_)) if guest.limiter.denied() => Err(out_of_memory()),
        Ok(Err(script)) => Err(Failure::Trap(code.positions.rewrite(&script))),
        Ok(Ok(Ok(response))) => response_of(response).map(Outcome::Done),
        Ok(Ok(Err(_))) if guest.limiter.denied() => Err(out_of_memory()),
        Ok(Ok(Err(wit::Failure::Retry(advice)))) => {
            Ok(Outcome::Retry { reason: text(code.positions.rewrite(&advice.reason)), after: advice.after.map(Duration::from_millis) })
        }
        Ok(Ok(Err(wit::Failure::Reject(reason)))) => Ok(Outcome::Reject { reason: text(code.positions.rewrite(&reason)) }),
    }
}

/// A reason is kept with the event and shown to people: bounded.
fn text(mut reason: String) -> String {
    const LONGEST: usize = 8 << 10;
    if reason.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|&i| reason.is_char_boundary(i)).unwrap_or(0);
        reason.truncate(end);
        reason.push('…');
    }
    reason
}

fn trap_text(error: &wasmtime::Error) -> String {
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => "the call stack is exhausted (endless recursion?)".into(),
        Some(Trap::UnreachableCodeReached) => "the guest gave up (`unreachable`: a panic or an abort)".into(),
        Some(trap) => trap.to_string(),
        None => format!("{error:#}"),
    }
}

fn response_of(response: wit::Response) -> Result<Response, Failure> {
    if !(100..=599).contains(&response.status) {
        return Err(Failure::BadResponse(format!("status {} is not between 100 and 599", response.status)));
    }
    if response.body.len() > RESPONSE_BYTES {
        return Err(Failure::BadResponse(format!("the body has {} bytes, {RESPONSE_BYTES} are allowed", response.body.len())));
    }
    for (name, value) in &response.headers {
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() || http::HeaderValue::from_str(value).is_err() {
            return Err(Failure::BadResponse(format!("`{}` is no header field", name.escape_default())));
        }
    }
    Ok(Response { status: response.status, headers: response.headers, body: response.body.into() })
}

fn to_wit(event: &Event) -> wit::Event {
    wit::Event {
        id: event.id.clone(),
        source: event.source.clone(),
        type_: event.ty.clone(),
        subject: event.subject.clone(),
        time: event.time.clone(),
        datacontenttype: event.datacontenttype.clone(),
        dataschema: event.dataschema.clone(),
        attributes: event.attributes.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        headers: event.headers.clone(),
        data: event.data.to_vec(),
    }
}

fn unix_millis(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
