-- The store of several hosts, in a schema of its own. Times are milliseconds since the Unix epoch, by the server's clock. Everything belongs
-- to a tenant. The tables are those of the SQLite store; what is different is said.

-- Numbers of the store as a whole.
CREATE TABLE meta (
    name  text PRIMARY KEY,
    value bigint NOT NULL
);

-- How often a host was started on this store, the versions of key-value rows, the numbers of events: none repeats.
CREATE SEQUENCE start_number;
CREATE SEQUENCE kv_version;
CREATE SEQUENCE event_id;

-- The hosts that are alive: whoever does not say so in time is taken for dead, and what it runs is ready again.
CREATE TABLE host (
    id          text PRIMARY KEY,  -- new at every start
    lease_until bigint NOT NULL
);

-- Who is in a lane: one host at a time, for as long as its lease lasts. The epoch is the fencing token; it never repeats.
CREATE TABLE lane (
    name        text PRIMARY KEY,
    epoch       bigint NOT NULL,
    host        text,             -- NULL: it is free
    lease_until bigint NOT NULL
);

-- An event, shared by its tasks; it goes with the last of them.
CREATE TABLE event (
    id     bigint PRIMARY KEY,  -- of the sequence
    header text  NOT NULL,  -- all but the data, as JSON
    data   bytea NOT NULL
);

-- A call that is not settled yet. A settled one leaves this table.
CREATE TABLE task (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- never used again: a claim must not fit a later task
    event       bigint   NOT NULL,
    tenant      text     COLLATE "C" NOT NULL,
    source      text     COLLATE "C" NOT NULL,
    kind        text     NOT NULL,
    handler     text     COLLATE "C" NOT NULL,
    key         text     COLLATE "C",  -- what the event is recognised by
    order_key   text     COLLATE "C",
    order_lock  integer,               -- what is locked while the order of its key changes
    state       smallint NOT NULL,     -- 0 ready, 1 running, 2 behind another task with its order key
    owner       text,                  -- the host that runs it
    due         bigint   NOT NULL,
    attempts    integer  NOT NULL,
    history     text     NOT NULL,     -- the attempts that failed, as JSON
    hops        bigint   NOT NULL,
    epoch       bigint   NOT NULL DEFAULT 0,      -- moves on when the task is claimed, parked or taken over; guards its completion
    suspect     boolean  NOT NULL DEFAULT false,  -- was running when a host ended without a stop
    alone       boolean  NOT NULL DEFAULT false,  -- runs alone now
    crashes     integer  NOT NULL DEFAULT 0,      -- how often a host ended while it ran alone
    accepted_at bigint   NOT NULL
);

CREATE INDEX task_ready ON task (tenant, source, handler, due, id) WHERE state = 0;
CREATE INDEX task_due ON task (due) WHERE state = 0;
CREATE INDEX task_owner ON task (owner) WHERE state = 1;
CREATE INDEX task_source ON task (tenant, source);
CREATE INDEX task_order ON task (tenant, source, handler, order_key, id) WHERE order_key IS NOT NULL;
CREATE INDEX task_key ON task (tenant, source, key, handler) WHERE key IS NOT NULL;
CREATE INDEX task_event ON task (event);

-- The keys of accepted events.
CREATE TABLE accepted (
    tenant   text COLLATE "C" NOT NULL,
    source   text COLLATE "C" NOT NULL,
    key      text COLLATE "C" NOT NULL,
    event_id text   NOT NULL,
    at       bigint NOT NULL,
    PRIMARY KEY (tenant, source, key)
);

CREATE INDEX accepted_at ON accepted (at);

-- The calls that are settled, as long as they are remembered.
CREATE TABLE settled (
    tenant   text COLLATE "C" NOT NULL,
    source   text COLLATE "C" NOT NULL,
    key      text COLLATE "C" NOT NULL,
    handler  text COLLATE "C" NOT NULL,
    outcome  text   NOT NULL,  -- done, dead
    response text,             -- as JSON, where it is kept for a duplicate delivery
    at       bigint NOT NULL,
    PRIMARY KEY (tenant, source, key, handler)
);

CREATE INDEX settled_at ON settled (at);

CREATE TABLE kv (
    tenant  text COLLATE "C" NOT NULL,
    key     text COLLATE "C" NOT NULL,
    value   bytea  NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (tenant, key)
);

CREATE TABLE dead_letter (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant    text   NOT NULL,
    source    text   NOT NULL,
    kind      text   NOT NULL,
    handler   text,            -- NULL: no handler wanted the event
    key       text,
    order_key text,
    reason    text   NOT NULL,
    history   text   NOT NULL,
    plugin    text,
    hops      bigint NOT NULL,
    header    text   NOT NULL,
    data      bytea  NOT NULL,
    at        bigint NOT NULL
);

CREATE INDEX dead_letter_at ON dead_letter (at);

-- What sources remember: windows, last values, due times.
CREATE TABLE source_state (
    tenant text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    name   text COLLATE "C" NOT NULL,
    value  bytea NOT NULL,
    PRIMARY KEY (tenant, source, name)
);
