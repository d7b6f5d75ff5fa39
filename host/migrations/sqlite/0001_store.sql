-- The store of one host. Times are milliseconds since the Unix epoch. Everything belongs to a tenant.

-- Numbers of the store as a whole.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO meta (name, value) VALUES
    ('start_number', 0),  -- how often a host was started on this store
    ('clean', 1),         -- 1: the last end was a stop
    ('kv_version', 0);    -- the highest version of a key-value row so far: it never repeats, so a key that changed and changed back is noticed

-- An event, shared by its tasks; it goes with the last of them.
CREATE TABLE event (
    id     INTEGER PRIMARY KEY,
    header TEXT NOT NULL,  -- all but the data, as JSON
    data   BLOB NOT NULL
) STRICT;

-- A call that is not settled yet. A settled one leaves this table.
CREATE TABLE task (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: a claim must not fit a later task
    event       INTEGER NOT NULL REFERENCES event (id),
    tenant      TEXT    NOT NULL,
    source      TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    handler     TEXT    NOT NULL,
    key         TEXT,              -- what the event is recognised by
    order_key   TEXT,
    state       INTEGER NOT NULL,  -- 0 ready, 1 running, 2 behind another task with its order key
    due         INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    history     TEXT    NOT NULL,  -- the attempts that failed, as JSON
    hops        INTEGER NOT NULL,
    epoch       INTEGER NOT NULL DEFAULT 0,  -- moves on when the task is claimed or parked; guards its completion
    suspect     INTEGER NOT NULL DEFAULT 0,  -- was running when the host last ended without a stop
    alone       INTEGER NOT NULL DEFAULT 0,  -- runs alone now
    crashes     INTEGER NOT NULL DEFAULT 0,  -- how often the host ended while it ran alone
    accepted_at INTEGER NOT NULL
) STRICT;

CREATE INDEX task_ready ON task (tenant, source, handler, due) WHERE state = 0;
CREATE INDEX task_due ON task (due) WHERE state = 0;
CREATE INDEX task_order ON task (tenant, source, handler, order_key) WHERE order_key IS NOT NULL;
CREATE INDEX task_key ON task (tenant, source, key, handler) WHERE key IS NOT NULL;
CREATE INDEX task_event ON task (event);

-- How many tasks a source has: counting them for each new one would cost more, the longer the backlog.
CREATE TABLE backlog (
    tenant TEXT    NOT NULL,
    source TEXT    NOT NULL,
    tasks  INTEGER NOT NULL,
    PRIMARY KEY (tenant, source)
) STRICT, WITHOUT ROWID;

-- What holds for every task, whoever makes or settles it, stands here once.
CREATE TRIGGER task_made AFTER INSERT ON task BEGIN
    INSERT INTO backlog (tenant, source, tasks) VALUES (NEW.tenant, NEW.source, 1)
        ON CONFLICT DO UPDATE SET tasks = tasks + 1;
END;

CREATE TRIGGER task_gone AFTER DELETE ON task BEGIN
    UPDATE backlog SET tasks = tasks - 1 WHERE tenant = OLD.tenant AND source = OLD.source;
    DELETE FROM event WHERE id = OLD.event AND NOT EXISTS (SELECT 1 FROM task WHERE event = OLD.event);
END;

CREATE TRIGGER task_next_in_order AFTER DELETE ON task WHEN OLD.order_key IS NOT NULL BEGIN
    UPDATE task SET state = 0 WHERE state = 2 AND id = (
        SELECT min(id) FROM task
        WHERE tenant = OLD.tenant AND source = OLD.source AND handler = OLD.handler AND order_key = OLD.order_key);
END;

-- The keys of accepted events.
CREATE TABLE accepted (
    tenant   TEXT    NOT NULL,
    source   TEXT    NOT NULL,
    key      TEXT    NOT NULL,
    event_id TEXT    NOT NULL,
    at       INTEGER NOT NULL,
    PRIMARY KEY (tenant, source, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX accepted_at ON accepted (at);

-- The calls that are settled, as long as they are remembered.
CREATE TABLE settled (
    tenant   TEXT    NOT NULL,
    source   TEXT    NOT NULL,
    key      TEXT    NOT NULL,
    handler  TEXT    NOT NULL,
    outcome  TEXT    NOT NULL,  -- done, dead
    response TEXT,              -- as JSON, where it is kept for a duplicate delivery
    at       INTEGER NOT NULL,
    PRIMARY KEY (tenant, source, key, handler)
) STRICT, WITHOUT ROWID;

CREATE INDEX settled_at ON settled (at);

CREATE TABLE kv (
    tenant  TEXT    NOT NULL,
    key     TEXT    NOT NULL,
    value   BLOB    NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE dead_letter (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant    TEXT    NOT NULL,
    source    TEXT    NOT NULL,
    kind      TEXT    NOT NULL,
    handler   TEXT,              -- NULL: no handler wanted the event
    key       TEXT,
    order_key TEXT,
    reason    TEXT    NOT NULL,
    history   TEXT    NOT NULL,
    plugin    TEXT,
    hops      INTEGER NOT NULL,
    header    TEXT    NOT NULL,
    data      BLOB    NOT NULL,
    at        INTEGER NOT NULL
) STRICT;

CREATE INDEX dead_letter_at ON dead_letter (at);

-- What sources remember: windows, last values, due times.
CREATE TABLE source_state (
    tenant TEXT NOT NULL,
    source TEXT NOT NULL,
    name   TEXT NOT NULL,
    value  BLOB NOT NULL,
    PRIMARY KEY (tenant, source, name)
) STRICT, WITHOUT ROWID;
