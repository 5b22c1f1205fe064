-- What webhooks are told of after it has happened, until they have taken it. The gateway that
-- serves the store writes from its config who is told of what.

-- next: the number that the queue's next notification gets. dropped: how many were lost because
-- the queue was full; given_up: how many because the webhook would not take them.
-- failures: attempts that failed in a row; due_at: no attempt is made before.
CREATE TABLE notification_queues (
    webhook  TEXT PRIMARY KEY,
    next     INTEGER NOT NULL DEFAULT 1,
    dropped  INTEGER NOT NULL DEFAULT 0,
    given_up INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    due_at   INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE notification_subscriptions (
    webhook TEXT NOT NULL REFERENCES notification_queues (webhook) ON DELETE CASCADE,
    type    TEXT NOT NULL,
    PRIMARY KEY (type, webhook)
) STRICT, WITHOUT ROWID;

-- id is the same in every queue and attempt. data: a JSON object. refusals: how often the webhook
-- has answered that it does not take this one.
CREATE TABLE notifications (
    webhook  TEXT NOT NULL REFERENCES notification_queues (webhook) ON DELETE CASCADE,
    number   INTEGER NOT NULL,
    id       TEXT NOT NULL,
    type     TEXT NOT NULL,
    at       INTEGER NOT NULL,
    data     TEXT NOT NULL,
    refusals INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (webhook, number)
) STRICT, WITHOUT ROWID;
