//! What every store has to do, whichever it is. A store's tests say `conformance!(open)`, and each promise becomes a test of its own.

use std::{any::Any, sync::Arc};

use bytes::Bytes;

use super::{
    Acceptance, Accepted, Attempt, CallId, Claim, Commit, Committed, DeadLetterQuery, Effects, Group, Holder, Read, Store, Subscriber,
    Task, Verdict, Want, Write,
};
use crate::{event::Event, outcome::Response, tenant::Tenant};

pub(crate) mod accepting;
pub(crate) mod claiming;
pub(crate) mod dead_letters;
pub(crate) mod effects;
pub(crate) mod holding;
pub(crate) mod kept;
pub(crate) mod model;
pub(crate) mod settling;

/// An empty store, and what has to live as long.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) _with: Box<dyn Any>,
}

/// Every promise as a test of the store that `$open` (an `async fn() -> Opened`) opens.
macro_rules! conformance {
    ($open:path) => {
        $crate::store::conformance::conformance! { $open;
            accepting {
                an_event_becomes_a_task_for_each_handler,
                a_repeated_event_is_a_duplicate_with_the_first_id,
                an_event_without_a_key_is_never_a_duplicate,
                a_key_belongs_to_its_tenant_and_source,
                a_full_backlog_refuses_and_changes_nothing,
                of_several_none_is_accepted_behind_one_without_room,
                state_is_written_with_the_event_or_not_at_all,
                an_event_nobody_wants_is_a_dead_letter,
                an_event_nobody_wants_may_be_ignored_but_its_key_is_kept,
                state_is_listed_by_prefix_and_forgotten,
                any_text_can_be_a_key_or_a_reason,
                what_many_have_accepted_at_once_is_in_the_order_of_each,
            }
            claiming {
                the_oldest_are_claimed_first_and_only_once,
                a_delayed_task_waits_for_its_time,
                tasks_with_an_order_key_run_one_after_the_other,
                a_parked_task_holds_back_its_order_key_only,
                a_released_task_is_due_again_and_the_old_claim_is_void,
                what_a_dropped_claim_took_comes_back,
                groups_with_something_to_claim_are_found,
                depths_tell_ready_later_and_running,
                what_waits_is_told_by_type,
            }
            settling {
                a_done_task_is_gone_and_remembered,
                a_claim_that_moved_on_settles_nothing,
                a_parked_task_waits_with_its_history,
                a_parked_direct_call_becomes_a_task_and_is_not_run_by_a_redelivery,
                a_direct_call_waits_behind_the_tasks_of_its_order_key_if_there_are_any,
                a_direct_call_is_settled_once,
                a_direct_call_without_effects_leaves_no_row,
                a_kept_response_comes_back,
                a_dead_task_becomes_a_letter_and_its_order_key_goes_on,
                emits_happen_with_the_call_or_not_at_all,
                an_emit_into_a_full_backlog_writes_nothing,
            }
            effects {
                writes_are_seen_when_the_call_is_done,
                keys_are_listed_by_prefix_in_pages,
                a_call_that_read_a_changed_key_is_overtaken,
                a_call_that_listed_a_changed_prefix_is_overtaken,
                a_read_that_nothing_relies_on_is_checked_too,
                an_increment_of_no_number_is_invalid_and_writes_nothing,
                a_thousand_increments_side_by_side_are_a_thousand,
                no_update_is_lost,
                keys_belong_to_their_tenant,
            }
            holding {
                others_wait_until_the_holder_has_committed,
                others_wait_until_it_is_let_go_of,
                a_hold_ends_by_itself,
                who_was_overtaken_holds_nothing,
                a_listed_prefix_is_held,
                holders_take_turns,
                holders_that_write_each_others_keys_both_end,
                a_holder_is_never_overtaken,
            }
            dead_letters {
                letters_are_found_by_what_they_belong_to,
                letters_are_found_by_when_they_came_and_counted,
                a_letter_keeps_where_its_event_came_from_and_what_was_tried,
                a_replayed_letter_is_a_new_call,
                a_letter_that_nobody_is_to_handle_stays,
                a_letter_without_a_handler_is_routed_again,
                purged_letters_are_gone,
                what_is_old_is_forgotten_but_not_while_a_task_needs_it,
            }
            kept {
                what_is_to_be_kept_outlives_its_tasks_and_the_rest_does_not,
                a_rerun_is_a_new_call_and_the_first_one_stays_settled,
                the_same_request_again_makes_nothing_and_another_one_does,
                a_call_that_is_not_settled_is_not_run_again_beside_itself,
                kept_events_are_forgotten_by_age_and_by_size_but_not_while_a_task_needs_them,
            }
            model {
                random_histories_do_what_the_model_does,
            }
        }
    };
    ($open:path; $($part:ident { $($promise:ident,)* })*) => {
        $(mod $part {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let opened = $open().await;
                $crate::store::conformance::$part::$promise(opened.store.clone()).await;
            })*
        })*
    };
}
pub(crate) use conformance;

/// A moment that tests do not live to see.
const LATER: super::Millis = 4_000_000_000_000;

pub(crate) fn tenant() -> Tenant {
    Tenant::default()
}

fn event(id: &str) -> Arc<Event> {
    let mut event = Event::new("order.created", format!("data of {id}").into_bytes());
    event.id = id.into();
    event.attributes.insert("region".into(), "north".into());
    event.headers.push(("x-trace".into(), "7".into()));
    Arc::new(event)
}

fn subscriber(handler: &str) -> Subscriber {
    Subscriber { handler: handler.into(), order: None }
}

/// An order for the handler `invoice`, recognised by its id.
pub(crate) fn order(id: &str) -> Acceptance {
    Acceptance {
        tenant: tenant(),
        source: "orders".into(),
        kind: "webhook".into(),
        key: Some(id.into()),
        event: event(id),
        handlers: vec![subscriber("invoice")],
        unrouted: Some("no route".into()),
        due: None,
        hops: 0,
        backlog: None,
        state: Vec::new(),
        keep: false,
    }
}

fn ordered(id: &str, key: &str) -> Acceptance {
    Acceptance { handlers: vec![Subscriber { handler: "invoice".into(), order: Some(key.into()) }], ..order(id) }
}

pub(crate) async fn accepted(store: &dyn Store, acceptance: Acceptance) -> Accepted {
    let mut accepted = store.accept(vec![acceptance]).await.unwrap();
    assert_eq!(accepted.len(), 1);
    accepted.remove(0)
}

pub(crate) async fn accept(store: &dyn Store, acceptance: Acceptance) {
    let id = acceptance.event.id.clone();
    assert_eq!(accepted(store, acceptance).await, Accepted::New { id });
}

pub(crate) fn want(handler: &str, limit: usize) -> Want {
    Want { tenant: tenant(), source: "orders".into(), handler: handler.into(), limit }
}

pub(crate) async fn claim(store: &dyn Store) -> Vec<Task> {
    store.claim(vec![want("invoice", 100)]).await.unwrap()
}

pub(crate) async fn claim_one(store: &dyn Store) -> Task {
    let mut tasks = claim(store).await;
    assert_eq!(tasks.len(), 1, "exactly one task is due");
    tasks.remove(0)
}

pub(crate) fn ids(tasks: &[Task]) -> Vec<&str> {
    tasks.iter().map(|task| task.event.id.as_str()).collect()
}

/// What the controller makes of a claimed task.
pub(crate) fn settling(task: &Task, verdict: Verdict) -> Commit {
    Commit {
        call: CallId { tenant: task.tenant.clone(), source: task.source.clone(), key: task.key.clone(), handler: task.handler.clone() },
        holder: None,
        kind: task.kind.clone(),
        claim: Some(task.claim),
        fence: None,
        event: task.event.clone(),
        hops: task.hops,
        history: task.history.clone(),
        plugin: Some("v1".into()),
        verdict,
    }
}

/// A direct call of `invoice`, recognised by its key if it has one.
pub(crate) fn direct(key: Option<&str>, verdict: Verdict) -> Commit {
    let call = CallId { tenant: tenant(), source: "orders".into(), key: key.map(Into::into), handler: "invoice".into() };
    let event = event(key.unwrap_or("nameless"));
    Commit {
        call,
        holder: None,
        kind: "kafka".into(),
        claim: None,
        fence: None,
        event,
        hops: 0,
        history: Vec::new(),
        plugin: Some("v1".into()),
        verdict,
    }
}

pub(crate) fn done() -> Verdict {
    Verdict::Done { effects: Effects::default(), keep: None }
}

pub(crate) fn done_with(effects: Effects) -> Verdict {
    Verdict::Done { effects, keep: None }
}

fn failed(error: &str) -> Attempt {
    Attempt { at: 1, error: error.into(), plugin: Some("sha256:0".into()) }
}

pub(crate) fn dead(reason: &str) -> Verdict {
    Verdict::Dead { reason: reason.into(), failed: Some(failed(reason)), plugin: "sha256:0".into(), recording: Some(r#"{"at":1}"#.into()) }
}

pub(crate) fn park(due: super::Millis) -> Verdict {
    Verdict::Park { due, failed: Some(failed("busy")), order: None }
}

pub(crate) fn wrote(key: &str, write: Write) -> Effects {
    Effects { writes: [(key.to_owned(), write)].into(), ..Effects::default() }
}

pub(crate) fn set(key: &str, value: &str) -> Effects {
    wrote(key, Write::Set(Bytes::copy_from_slice(value.as_bytes())))
}

async fn put(store: &dyn Store, key: &str, value: &str) {
    assert_eq!(store.commit(direct(None, done_with(set(key, value)))).await.unwrap(), Committed::Yes);
}

async fn value(store: &dyn Store, key: &str) -> Option<String> {
    let value = store.get(tenant(), key.into()).await.unwrap();
    value.map(|(value, _)| String::from_utf8(value.to_vec()).unwrap())
}

/// What a call that reads the key relies on.
pub(crate) async fn read(store: &dyn Store, key: &str) -> Read {
    let version = store.get(tenant(), key.into()).await.unwrap().map_or(0, |(_, version)| version);
    Read::Key { key: key.into(), version }
}

pub(crate) fn all_letters() -> DeadLetterQuery {
    DeadLetterQuery { limit: 1000, ..DeadLetterQuery::default() }
}

fn response(body: &str) -> Response {
    Response { status: 201, headers: vec![("content-type".into(), "text/plain".into())], body: Bytes::copy_from_slice(body.as_bytes()) }
}

fn void(claim: Claim) -> Claim {
    Claim { epoch: claim.epoch - 1, ..claim }
}

fn holder() -> Option<Holder> {
    Some(Holder::new())
}
