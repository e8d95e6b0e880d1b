-- Upstreams that speak OpenAI's dialect. Code that does not know them cannot read a list that has one:
-- add none before every replica is of this release.
SET LOCAL lock_timeout = '2s';

ALTER TYPE gateway.upstream_kind ADD VALUE IF NOT EXISTS 'openai';
