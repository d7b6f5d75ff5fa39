-- The version of the handler that settled the call: a digest. NULL: no handler's code did, or it was settled before versions were kept.
ALTER TABLE settled ADD COLUMN plugin TEXT;
