-- Events that are kept for a wanted re-run, whatever became of their tasks.
CREATE TABLE kept (
    event       bigint PRIMARY KEY,
    tenant      text   COLLATE "C" NOT NULL,
    source      text   COLLATE "C" NOT NULL,
    kind        text   NOT NULL,
    key         text   COLLATE "C",  -- what the event is recognised by
    event_id    text   COLLATE "C" NOT NULL,
    hops        bigint NOT NULL,
    bytes       bigint NOT NULL,
    accepted_at bigint NOT NULL
);

CREATE INDEX kept_id ON kept (event_id);
CREATE INDEX kept_source ON kept (tenant, source, accepted_at);
CREATE INDEX kept_at ON kept (accepted_at);
