//! The built-in authority: what may be certified, and the keys that certify it.

pub mod plan;
