//! Integration tests, in one binary.

mod config_corpus;
