-- When the store took in the event of a dead letter; NULL: it came directly from its source and was never parked.
ALTER TABLE dead_letter ADD COLUMN accepted_at INTEGER;

-- What the host calls of the last attempt gave it, as JSON.
ALTER TABLE dead_letter ADD COLUMN recording TEXT;
