//! Accepting events: their keys, their tasks and what their sources remember, or nothing.
//!
//! However many are accepted at once, it is a handful of statements: what waits for the writer is accepted together.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row as _, postgres::PgArguments, query::Query};

use super::{
    dead_letter,
    locks::{self, Locks},
    rows::{key, text, unstored},
    source_state,
    writer::Tx,
};
use crate::{
    event::Event,
    store::{Acceptance, Accepted, OrderKey, StoreError, Subscriber, json::to_json, kept, letters::NewLetter},
    tenant::Tenant,
};

pub(super) fn lock(acceptances: &[Acceptance], locks: &mut Locks) {
    for Acceptance { tenant, source, handlers, .. } in acceptances {
        handlers.iter().for_each(|subscriber| locks.order(order_lock(tenant, source, subscriber)));
    }
}

pub(super) fn order_lock(tenant: &Tenant, source: &Arc<str>, subscriber: &Subscriber) -> Option<i32> {
    let key = subscriber.order.as_deref()?.into();
    Some(locks::of_order(&OrderKey { tenant: tenant.clone(), source: source.clone(), handler: subscriber.handler.clone(), key }))
}

/// Whose an event is, and what it is recognised by.
type Key<'a> = (&'a str, &'a str, &'a str);

fn key_of(acceptance: &Acceptance) -> Option<Key<'_>> {
    Some((acceptance.tenant.as_str(), &*acceptance.source, acceptance.key.as_deref()?))
}

/// Accept each list until there is no room for one of it. [`Accepted::Duplicate`] and [`Accepted::Full`] have written nothing.
pub(super) async fn accept<'a>(tx: &mut Tx<'_>, lists: &[&'a [Acceptance]]) -> Result<Vec<Vec<Accepted>>, StoreError> {
    let all = || lists.iter().copied().flatten();
    let mut known = known(tx.connection, all().filter_map(key_of).collect()).await?;
    // By the first of its key an event is known to those behind it.
    let mut room = Room::default();
    let mut answers = Vec::with_capacity(lists.len());
    let mut new: Vec<&'a Acceptance> = Vec::new();
    for list in lists.iter().copied() {
        let mut of_list: Vec<Accepted> = Vec::with_capacity(list.len());
        for acceptance in list {
            let before = key_of(acceptance).and_then(|key| known.get(&key));
            let answer = if of_list.last() == Some(&Accepted::Full) {
                Accepted::Full
            } else if let Some(id) = before {
                Accepted::Duplicate { id: id.clone() }
            } else if !room.is_left_for(tx, acceptance).await? {
                Accepted::Full
            } else {
                room.take(tx, acceptance);
                new.push(acceptance);
                if let Some(key) = key_of(acceptance) {
                    known.insert(key, acceptance.event.id.clone());
                }
                Accepted::New { id: acceptance.event.id.clone() }
            };
            of_list.push(answer);
        }
        answers.push(of_list);
    }
    let lost = remember_keys(tx, &new).await?;
    if !lost.is_empty() {
        // Another host was faster: what it accepted is committed by now.
        let theirs = self::known(tx.connection, lost.iter().copied().collect()).await?;
        new.retain(|acceptance| key_of(acceptance).is_none_or(|key| !lost.contains(&key)));
        for (acceptance, answer) in all().zip(answers.iter_mut().flatten()) {
            if let Some(id) = key_of(acceptance).and_then(|key| theirs.get(&key))
                && *answer != Accepted::Full
            {
                *answer = Accepted::Duplicate { id: id.clone() };
            }
        }
    }
    write(tx, &new).await?;
    Ok(answers)
}

async fn write(tx: &mut Tx<'_>, new: &[&Acceptance]) -> Result<(), StoreError> {
    let (now, ahead) = (tx.now, tx.ahead);
    let tasks = new.iter().filter(|acceptance| !acceptance.handlers.is_empty()).map(|acceptance| NewTasks {
        event: &acceptance.event,
        tenant: &acceptance.tenant,
        source: &acceptance.source,
        kind: &acceptance.kind,
        subscribers: &acceptance.handlers,
        key: acceptance.key.as_deref(),
        due: acceptance.due.map_or(now, |due| due.saturating_add(ahead)),
        attempts: 0,
        history: "[]",
        hops: acceptance.hops,
        keep: acceptance.keep,
    });
    insert(tx, &tasks.collect::<Vec<_>>()).await?;
    for acceptance in new.iter().filter(|acceptance| acceptance.handlers.is_empty()) {
        let Some(reason) = &acceptance.unrouted else { continue };
        let letter = NewLetter {
            tenant: &acceptance.tenant,
            source: &acceptance.source,
            kind: &acceptance.kind,
            handler: None,
            key: acceptance.key.as_deref(),
            order: None,
            reason,
            history: "[]",
            plugin: None,
            hops: acceptance.hops,
            accepted_at: Some(now),
            recording: None,
            event: &acceptance.event,
        };
        dead_letter::insert(tx, &letter).await?;
    }
    // The last of each name is what is remembered. In order: hosts that write the same ones do not wait for each other in a circle.
    let mut states = BTreeMap::new();
    for acceptance in new {
        for (name, value) in &acceptance.state {
            states.insert((acceptance.tenant.as_str(), &*acceptance.source, name.as_str()), value);
        }
    }
    for ((tenant, source, name), value) in states {
        source_state::set(tx.connection, tenant, source, name, value.as_deref()).await?;
    }
    Ok(())
}

/// The tasks of one event, to be written.
pub(super) struct NewTasks<'a> {
    pub(super) event: &'a Event,
    pub(super) tenant: &'a Tenant,
    pub(super) source: &'a Arc<str>,
    pub(super) kind: &'a str,
    pub(super) subscribers: &'a [Subscriber],
    pub(super) key: Option<&'a str>,
    pub(super) due: i64,
    pub(super) attempts: usize,
    pub(super) history: &'a str,
    pub(super) hops: u32,
    /// It is kept when its tasks are settled.
    pub(super) keep: bool,
}

/// Write events and their tasks. Their order keys are locked.
pub(super) async fn insert(tx: &mut Tx<'_>, new: &[NewTasks<'_>]) -> Result<(), StoreError> {
    // Behind a task with its order key it is not ready, and comes up when it is its turn: a claim never has to look past those that wait.
    const STATEMENT: &str = "
        WITH ids AS MATERIALIZED (
            SELECT n, nextval('event_id') AS id FROM generate_series(1, cardinality($1::text[])) AS n
        ), events AS (
            INSERT INTO event (id, header, data)
            SELECT ids.id, e.header, e.data FROM unnest($1::text[], $2::bytea[]) WITH ORDINALITY AS e(header, data, n) JOIN ids ON ids.n = e.n
        ) {kept}
        INSERT INTO task (event, tenant, source, kind, handler, key, order_key, order_lock, due, attempts, history, hops, accepted_at, state)
        SELECT ids.id, t.tenant, t.source, t.kind, t.handler, t.key, t.order_key, t.order_lock, t.due, t.attempts, t.history, t.hops, $3,
            CASE WHEN t.behind OR (t.order_key IS NOT NULL AND EXISTS (
                SELECT 1 FROM task AS o WHERE o.tenant = t.tenant COLLATE \"C\" AND o.source = t.source COLLATE \"C\"
                    AND o.handler = t.handler COLLATE \"C\" AND o.order_key = t.order_key COLLATE \"C\")) THEN 2 ELSE 0 END
        FROM unnest($4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::int[], $12::bigint[],
                $13::int[], $14::text[], $15::bigint[], $16::boolean[]) WITH ORDINALITY
            AS t(n, tenant, source, kind, handler, key, order_key, order_lock, due, attempts, history, hops, behind, nth)
            JOIN ids ON ids.n = t.n
        ORDER BY t.nth";
    if new.is_empty() {
        return Ok(());
    }
    let (mut headers, mut data, mut kept) = (Vec::new(), Vec::new(), Kept::default());
    let (mut events, mut tenants, mut sources, mut kinds, mut handlers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut keys, mut orders, mut order_locks, mut dues) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut attempts, mut histories, mut hops, mut behind) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // A statement does not see what it writes: who is behind one of the same statement is said.
    let mut first = HashSet::new();
    for (n, task) in (1i64..).zip(new) {
        let header = to_json(task.event)?;
        if task.keep {
            kept.push(n, task, &header);
        }
        headers.push(header);
        data.push(&*task.event.data);
        for subscriber in task.subscribers {
            events.push(n);
            tenants.push(task.tenant.as_str());
            sources.push(&**task.source);
            kinds.push(task.kind);
            handlers.push(&*subscriber.handler);
            keys.push(task.key.map(key));
            orders.push(subscriber.order.as_deref().map(key));
            order_locks.push(order_lock(task.tenant, task.source, subscriber));
            dues.push(task.due);
            attempts.push(i32::try_from(task.attempts).unwrap_or(i32::MAX));
            histories.push(task.history);
            hops.push(i64::from(task.hops));
            let order = subscriber.order.as_deref().map(|order| (task.tenant.as_str(), &**task.source, &*subscriber.handler, order));
            behind.push(order.is_some_and(|order| !first.insert(order)));
        }
    }
    // Two statements, each of which stays prepared: what is not kept costs nothing more.
    let keeps = !kept.events.is_empty();
    let statement = STATEMENT.replace("{kept}", if keeps { KEPT } else { "" });
    let query = sqlx::query(AssertSqlSafe(statement))
        .bind(headers)
        .bind(data)
        .bind(tx.now)
        .bind(events)
        .bind(tenants)
        .bind(sources)
        .bind(kinds)
        .bind(handlers)
        .bind(keys)
        .bind(orders)
        .bind(order_locks)
        .bind(dues)
        .bind(attempts)
        .bind(histories)
        .bind(hops)
        .bind(behind);
    let query = if keeps { kept.bind(query) } else { query };
    query.execute(&mut *tx.connection).await?;
    Ok(())
}

/// What keeps events when they are written.
const KEPT: &str = ", kept AS (
            INSERT INTO kept (event, tenant, source, kind, key, event_id, hops, bytes, accepted_at)
            SELECT ids.id, k.tenant, k.source, k.kind, k.key, k.event_id, k.hops, k.bytes, $3
            FROM unnest($17::bigint[], $18::text[], $19::text[], $20::text[], $21::text[], $22::text[], $23::bigint[], $24::bigint[])
                AS k(n, tenant, source, kind, key, event_id, hops, bytes) JOIN ids ON ids.n = k.n
        )";

/// Events to be kept, a column each.
#[derive(Default)]
struct Kept<'a> {
    events: Vec<i64>,
    tenants: Vec<&'a str>,
    sources: Vec<&'a str>,
    kinds: Vec<&'a str>,
    keys: Vec<Option<Cow<'a, str>>>,
    ids: Vec<Cow<'a, str>>,
    hops: Vec<i64>,
    bytes: Vec<i64>,
}

impl<'a> Kept<'a> {
    fn push(&mut self, n: i64, task: &NewTasks<'a>, header: &str) {
        self.events.push(n);
        self.tenants.push(task.tenant.as_str());
        self.sources.push(&**task.source);
        self.kinds.push(task.kind);
        self.keys.push(task.key.map(key));
        // It is in an index, which takes no text of any length.
        self.ids.push(key(&task.event.id));
        self.hops.push(i64::from(task.hops));
        self.bytes.push(kept::bytes(header, &task.event.data));
    }

    fn bind(self, query: Query<'a, Postgres, PgArguments>) -> Query<'a, Postgres, PgArguments> {
        let query = query.bind(self.events).bind(self.tenants).bind(self.sources).bind(self.kinds);
        query.bind(self.keys).bind(self.ids).bind(self.hops).bind(self.bytes)
    }
}

/// The ids under which these keys were accepted.
async fn known<'a>(connection: &mut PgConnection, keys: Vec<Key<'a>>) -> Result<HashMap<Key<'a>, String>, StoreError> {
    const STATEMENT: &str = "
        SELECT k.n, a.event_id FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS k(tenant, source, key, n)
            JOIN accepted AS a ON a.tenant = k.tenant COLLATE \"C\" AND a.source = k.source COLLATE \"C\" AND a.key = k.key COLLATE \"C\"";
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let tenants: Vec<&str> = keys.iter().map(|(tenant, _, _)| *tenant).collect();
    let sources: Vec<&str> = keys.iter().map(|(_, source, _)| *source).collect();
    let texts: Vec<_> = keys.iter().map(|(_, _, name)| key(name)).collect();
    let rows = sqlx::query(STATEMENT).bind(tenants).bind(sources).bind(texts).fetch_all(connection).await?;
    let mut known = HashMap::with_capacity(rows.len());
    for row in rows {
        let nth = usize::try_from(row.try_get::<i64, _>(0)? - 1).unwrap_or(usize::MAX);
        if let Some(key) = keys.get(nth) {
            known.insert(*key, unstored(row.try_get(1)?));
        }
    }
    Ok(known)
}

/// Write the keys of new events. Those that another host wrote since they were looked for: of two hosts that accept an event at once the
/// second waits here for the first.
async fn remember_keys<'a>(tx: &mut Tx<'_>, new: &[&'a Acceptance]) -> Result<HashSet<Key<'a>>, StoreError> {
    const STATEMENT: &str = "
        INSERT INTO accepted (tenant, source, key, event_id, at)
        SELECT k.tenant, k.source, k.key, k.event_id, $5 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
            AS k(tenant, source, key, event_id)
        ON CONFLICT DO NOTHING RETURNING tenant, source, key";
    // In order: two hosts do not wait for each other in a circle.
    let keys: BTreeMap<Key<'a>, &str> = new.iter().filter_map(|new| Some((key_of(new)?, new.event.id.as_str()))).collect();
    if keys.is_empty() {
        return Ok(HashSet::new());
    }
    let tenants: Vec<&str> = keys.keys().map(|(tenant, _, _)| *tenant).collect();
    let sources: Vec<&str> = keys.keys().map(|(_, source, _)| *source).collect();
    let texts: Vec<_> = keys.keys().map(|(_, _, name)| key(name)).collect();
    let ids: Vec<_> = keys.values().map(|id| text(id)).collect();
    let query = sqlx::query(STATEMENT).bind(tenants).bind(sources).bind(texts).bind(ids).bind(tx.now);
    let written = query.fetch_all(&mut *tx.connection).await?;
    if written.len() == keys.len() {
        return Ok(HashSet::new());
    }
    let mut theirs: HashMap<(&str, &str, String), Key<'a>> =
        keys.into_keys().map(|key @ (tenant, source, name)| ((tenant, source, self::key(name).into_owned()), key)).collect();
    for row in &written {
        theirs.remove(&(row.try_get::<&str, _>(0)?, row.try_get::<&str, _>(1)?, row.try_get::<String, _>(2)?));
    }
    Ok(theirs.into_values().collect())
}

/// How much room the sources have: what other hosts add meanwhile goes beyond the bound.
#[derive(Default)]
struct Room<'a> {
    of: HashMap<(&'a str, &'a str), Tasks>,
}

#[derive(Default)]
struct Tasks {
    /// In the store, and up to how many were counted.
    stored: (u64, u64),
    /// To be written.
    new: u64,
}

impl<'a> Room<'a> {
    async fn is_left_for(&mut self, tx: &mut Tx<'_>, acceptance: &'a Acceptance) -> Result<bool, StoreError> {
        let Acceptance { tenant, source, backlog: Some(bound), .. } = acceptance else { return Ok(true) };
        let tasks = self.of(acceptance);
        if *bound > tasks.stored.1 {
            tasks.stored = (tx.backlogs.count(tx.connection, tenant, source, *bound).await?, *bound);
        }
        Ok(tasks.stored.0 + tasks.new < *bound)
    }

    fn take(&mut self, tx: &mut Tx<'_>, acceptance: &'a Acceptance) {
        let tasks = acceptance.handlers.len() as u64;
        self.of(acceptance).new += tasks;
        tx.backlogs.add(&acceptance.tenant, &acceptance.source, tasks);
    }

    fn of(&mut self, acceptance: &'a Acceptance) -> &mut Tasks {
        self.of.entry((acceptance.tenant.as_str(), &*acceptance.source)).or_default()
    }
}

/// How long the backlogs were when they were counted last, and what was added here since: counting costs the more the longer they are.
#[derive(Debug, Default)]
pub(super) struct Backlogs {
    of: HashMap<Tenant, HashMap<Arc<str>, Backlog>>,
}

#[derive(Debug)]
struct Backlog {
    at_most: u64,
    counted: Instant,
}

impl Backlogs {
    /// How long a count is good for, as long as there is plenty of room: other hosts add too.
    const GOOD: Duration = Duration::from_secs(1);

    /// How many tasks of a source are not settled, at most; more than `bound` are not counted.
    async fn count(&mut self, connection: &mut PgConnection, tenant: &Tenant, source: &Arc<str>, bound: u64) -> sqlx::Result<u64> {
        let known = self.of.get(tenant).and_then(|of| of.get(source));
        if let Some(known) = known.filter(|known| known.at_most < bound / 2 && known.counted.elapsed() < Self::GOOD) {
            return Ok(known.at_most);
        }
        let counted = Instant::now();
        let at_most = backlog(connection, tenant, source, Some(bound)).await?;
        self.of.entry(tenant.clone()).or_default().insert(source.clone(), Backlog { at_most, counted });
        Ok(at_most)
    }

    fn add(&mut self, tenant: &Tenant, source: &Arc<str>, tasks: u64) {
        if let Some(backlog) = self.of.get_mut(tenant).and_then(|of| of.get_mut(source)) {
            backlog.at_most += tasks;
        }
    }
}

/// How many tasks of a source are not settled; more than `bound` are not counted.
pub(super) async fn backlog(connection: &mut PgConnection, tenant: &Tenant, source: &str, bound: Option<u64>) -> sqlx::Result<u64> {
    let bound = bound.map(|bound| i64::try_from(bound).unwrap_or(i64::MAX));
    let row = sqlx::query("SELECT count(*) FROM (SELECT 1 FROM task WHERE tenant = $1 AND source = $2 LIMIT $3) AS t")
        .bind(tenant.as_str())
        .bind(source)
        .bind(bound)
        .fetch_one(connection)
        .await?;
    Ok(row.try_get::<i64, _>(0)?.unsigned_abs())
}
