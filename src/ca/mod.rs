//! The built-in authority: what may be certified, and the keys that certify it.
//!
//! Invariant: every certificate that leaves this module was planned first ([`plan`]) and read back
//! afterwards ([`issue`]): it says what the plan says, and nothing besides.

pub mod authority;
pub mod bundle;
pub mod change;
pub(crate) mod checks;
mod contents;
pub mod crl;
pub mod csr;
pub mod describe;
mod error;
pub mod exchange;
pub(crate) mod files;
pub mod issue;
pub mod leaf;
pub mod leaf_files;
mod make;
pub mod passphrase;
pub mod plan;
pub mod request;
pub(crate) mod x509;

pub use error::CaError;
