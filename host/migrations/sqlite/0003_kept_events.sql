-- Events that are kept for a wanted re-run, whatever became of their tasks.
CREATE TABLE kept (
    event       INTEGER PRIMARY KEY REFERENCES event (id),
    tenant      TEXT    NOT NULL,
    source      TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    key         TEXT,              -- what the event is recognised by
    event_id    TEXT    NOT NULL,
    hops        INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL
) STRICT;

CREATE INDEX kept_id ON kept (event_id);
CREATE INDEX kept_source ON kept (tenant, source, accepted_at);
CREATE INDEX kept_at ON kept (accepted_at);

-- An event goes with the last that needs it: its tasks, or that it is kept.
DROP TRIGGER task_gone;

CREATE TRIGGER task_gone AFTER DELETE ON task BEGIN
    UPDATE backlog SET tasks = tasks - 1 WHERE tenant = OLD.tenant AND source = OLD.source;
    DELETE FROM event WHERE id = OLD.event AND NOT EXISTS (SELECT 1 FROM task WHERE event = OLD.event)
        AND NOT EXISTS (SELECT 1 FROM kept WHERE event = OLD.event);
END;

CREATE TRIGGER kept_gone AFTER DELETE ON kept BEGIN
    DELETE FROM event WHERE id = OLD.event AND NOT EXISTS (SELECT 1 FROM task WHERE event = OLD.event);
END;
