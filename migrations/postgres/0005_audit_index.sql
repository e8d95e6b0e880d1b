-- With many keys an event of each is a page of this index: two fifths of what storing it costs. Whoever looks for the
-- events of a key knows its tenant; the code before this looks through all of them.
SET LOCAL lock_timeout = '2s';

DROP INDEX gateway.audit_events_key;
