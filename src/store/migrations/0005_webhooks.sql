-- Grants may name a webhook that has the last word, and accept that requests pass when it fails.
ALTER TABLE grants ADD COLUMN webhook TEXT;
ALTER TABLE grants ADD COLUMN accept_fail_open INTEGER NOT NULL DEFAULT 0;
