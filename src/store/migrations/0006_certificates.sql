-- Certificates that ended long ago are forgotten, a few with each one that is recorded.
CREATE INDEX certificates_by_end ON certificates (not_after);
