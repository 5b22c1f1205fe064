//! The built-in authority: what may be certified, and the keys that certify it.
//!
//! Invariant: every certificate that leaves this module was planned first ([`plan`]) and read back
//! afterwards ([`issue`]): it says what the plan says, and nothing besides.

#[cfg(feature = "gateway")]
pub mod authority;
pub mod bundle;
#[cfg(feature = "gateway")]
pub mod change;
#[cfg(feature = "gateway")]
pub(crate) mod checks;
#[cfg(feature = "gateway")]
mod contents;
#[cfg(feature = "gateway")]
pub mod crl;
#[cfg(feature = "gateway")]
pub mod csr;
#[cfg(feature = "gateway")]
pub mod describe;
#[cfg(feature = "gateway")]
mod error;
pub mod exchange;
pub(crate) mod files;
#[cfg(feature = "gateway")]
pub mod issue;
#[cfg(feature = "gateway")]
pub mod leaf;
pub mod leaf_files;
#[cfg(feature = "gateway")]
mod make;
#[cfg(feature = "gateway")]
pub mod passphrase;
pub mod plan;
#[cfg(feature = "gateway")]
pub mod request;
pub(crate) mod x509;

#[cfg(feature = "gateway")]
pub use error::CaError;
