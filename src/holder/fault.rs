//! Why a holder has no certificate, or no connection to its gateway, in words that say what to do.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustls::{AlertDescription, CertificateError};

use crate::ca::bundle::{BundleFault, RootPin};
use crate::ca::exchange::{Code, Refused};
use crate::domain::gateway_address::GatewayAddress;
use crate::domain::timestamp::Timestamp;
use crate::holder::tls::NotPinned;

/// Why something about certificates was not done.
#[derive(Debug, thiserror::Error)]
pub enum HolderFault {
    /// The bundle is none.
    #[error(transparent)]
    Bundle(#[from] BundleFault),
    /// The bundle's time is over, by this machine's clock.
    #[error("the bundle expired at {expired_at}, and by this machine's clock it is {now}")]
    BundleExpired {
        /// When.
        expired_at: Timestamp,
        /// What the clock says.
        now: Timestamp,
    },
    /// The certificate's time is over, by this machine's clock.
    #[error("the certificate of {identity} ended at {ended_at}, and by this machine's clock it is {now}")]
    Expired {
        /// Whose.
        identity: String,
        /// When.
        ended_at: Timestamp,
        /// What the clock says.
        now: Timestamp,
    },
    /// A file that would be overwritten.
    #[error("{} exists already and is not overwritten", .0.display())]
    Exists(PathBuf),
    /// There is no identity in a directory.
    #[error("there is no certificate in {}", .0.display())]
    Missing(PathBuf),
    /// There are several identities in a directory.
    #[error("{} holds several certificates ({}); name one", dir.display(), names.join(", "))]
    Several {
        /// Where.
        dir: PathBuf,
        /// Whose they are.
        names: Vec<String>,
    },
    /// Another process is at work in the directory.
    #[error("another process is changing the certificate in {}", .0.display())]
    Busy(PathBuf),
    /// A file that does not hold what it should.
    #[error("{}: {why}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Nothing says where the certificate came from.
    #[error("nothing in {} says which gateway the certificate came from", .0.display())]
    NoOrigin(PathBuf),
    /// No address led to the gateway. Nothing secret was sent.
    #[error("the gateway cannot be reached{}", attempts(.0))]
    Unreached(Vec<Attempt>),
    /// The connection broke after the request was sent.
    #[error("the connection to {address} broke before the answer came: {why}")]
    AnswerLost {
        /// Where.
        address: GatewayAddress,
        /// Why.
        why: String,
    },
    /// The gateway said no.
    #[error("the gateway at {address} refused ({status}{}){}", code(refused), detail(refused))]
    Refused {
        /// Where.
        address: GatewayAddress,
        /// The HTTP status.
        status: u16,
        /// What it said.
        refused: Refused,
    },
    /// The gateway ended the handshake because of the certificate.
    #[error("the gateway at {address} does not take the certificate: {what}")]
    CertificateRefused {
        /// Where.
        address: GatewayAddress,
        /// What its alert says.
        what: CertificateAlert,
    },
    /// What came back is no certificate for this holder.
    #[error("the answer of {address} is not used: {why}")]
    Answer {
        /// From where.
        address: GatewayAddress,
        /// What is wrong with it.
        why: String,
    },
    /// Cryptography failed.
    #[error("cryptography failed: {0}")]
    Crypto(String),
}

/// One address, and why it did not lead to the gateway.
#[derive(Debug)]
pub struct Attempt {
    /// The address.
    pub address: GatewayAddress,
    /// Why.
    pub why: Why,
}

/// Why an address did not lead to the gateway.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Why {
    /// No connection.
    #[error("{0}")]
    Connect(String),
    /// The proxy made no connection.
    #[error("{0}")]
    Proxy(String),
    /// The server's chain has another root than the pinned one.
    #[error("its certificate does not come from the root {pin} that the bundle names")]
    Pin {
        /// The pin.
        pin: RootPin,
    },
    /// The server's certificate comes from no root of this holder.
    #[error("its certificate does not come from a root in ca.crt")]
    Root,
    /// The server's certificate is not for this name.
    #[error("its certificate is not for the name {0}")]
    Name(String),
    /// The server's certificate is not valid by this machine's clock.
    #[error("{0}")]
    Clock(String),
    /// The server has another name or protocol than was asked for.
    #[error("it does not serve {0}: is that a name of this gateway?")]
    NotServed(String),
    /// Anything else in the handshake.
    #[error("the TLS handshake failed: {0}")]
    Handshake(String),
}

/// What a gateway's alert says about the holder's certificate (RFC 8446, section 6.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CertificateAlert {
    /// It is revoked.
    #[error("it is revoked")]
    Revoked,
    /// It has expired, by the gateway's clock.
    #[error("it has expired, by the gateway's clock")]
    Expired,
    /// The gateway does not know its authority, or not any more.
    #[error("the gateway does not know its authority")]
    UnknownAuthority,
    /// It wants one and got none.
    #[error("a certificate is required")]
    Required,
    /// It is not good for this.
    #[error("it is not good for this")]
    Bad,
}

impl CertificateAlert {
    /// What `alert` says about the certificate, if it does.
    const fn of(alert: AlertDescription) -> Option<Self> {
        #[expect(clippy::wildcard_enum_match_arm, reason = "alerts are an open set; most are not about certificates")]
        match alert {
            AlertDescription::CertificateRevoked => Some(Self::Revoked),
            AlertDescription::CertificateExpired => Some(Self::Expired),
            AlertDescription::UnknownCA => Some(Self::UnknownAuthority),
            AlertDescription::CertificateRequired => Some(Self::Required),
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied => Some(Self::Bad),
            _ => None,
        }
    }

    /// What the gateway's alert in `error` says about the certificate, if there is one.
    #[must_use]
    pub fn in_error(error: &(dyn Error + 'static)) -> Option<Self> {
        if let rustls::Error::AlertReceived(alert) = tls_error(error)? { Self::of(*alert) } else { None }
    }
}

impl HolderFault {
    /// A file or directory that could not be used.
    pub(super) fn file(path: &Path, why: impl fmt::Display) -> Self {
        Self::File { path: path.to_owned(), why: why.to_string() }
    }

    /// What to do about it, when there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Bundle(_) | Self::File { .. } | Self::Busy(_) | Self::Crypto(_) | Self::Several { .. } => {
                return None;
            }
            Self::BundleExpired { .. } => {
                "if the clock is right, ask for another bundle: `doorward enroll create` makes one"
            }
            Self::Expired { .. } => {
                "what has ended is not renewed; if the clock is right, ask for a bundle (`doorward enroll create`) and join with it"
            }
            Self::Exists(_) => "choose another directory, or move the old files away",
            Self::Missing(_) => "`doorward enroll join BUNDLE --out DIR` gets one",
            Self::NoOrigin(_) => {
                "`doorward enroll join` writes gateway.toml, which says so; `doorward cert renew` also takes --gateway HOST:PORT --enroll-name NAME"
            }
            Self::Unreached(attempts) => return unreached_hint(attempts),
            Self::AnswerLost { .. } => {
                "try again; if that is refused, the lost answer has used the bundle up: ask for another"
            }
            Self::Refused { refused, .. } => return refused_hint(refused),
            Self::CertificateRefused { what, .. } => match what {
                CertificateAlert::Revoked | CertificateAlert::UnknownAuthority | CertificateAlert::Bad => NEW_BUNDLE,
                CertificateAlert::Expired => {
                    "if this machine's clock is right, ask for a bundle (`doorward enroll create`)"
                }
                CertificateAlert::Required => return None,
            },
            Self::Answer { .. } => "tell whoever runs the gateway; nothing was changed here",
        };
        Some(hint.to_owned())
    }

    /// True when asking again cannot help: somebody has to act.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused { refused, .. } => match refused.code() {
                Some(
                    Code::InvalidEnrollment
                    | Code::CertificateRevoked
                    | Code::CertificateRequired
                    | Code::NotFound
                    | Code::BadCsr
                    | Code::InvalidRequest
                    | Code::BodyTooLarge
                    | Code::MethodNotAllowed
                    | Code::Misdirected
                    | Code::UnsupportedMediaType,
                ) => true,
                Some(Code::TooManyFailures | Code::Unavailable) | None => false,
            },
            Self::CertificateRefused { .. } | Self::Expired { .. } | Self::BundleExpired { .. } | Self::Bundle(_) => {
                true
            }
            Self::Exists(_) | Self::Missing(_) | Self::Several { .. } | Self::NoOrigin(_) => true,
            Self::Busy(_)
            | Self::File { .. }
            | Self::Unreached(_)
            | Self::AnswerLost { .. }
            | Self::Answer { .. }
            | Self::Crypto(_) => false,
        }
    }
}

const NEW_BUNDLE: &str = "only a new bundle helps: `doorward enroll create` makes one";

fn unreached_hint(attempts: &[Attempt]) -> Option<String> {
    let any = |is: fn(&Why) -> bool| attempts.iter().any(|attempt| is(&attempt.why));
    let hint = if any(|why| matches!(why, Why::Pin { .. })) {
        "somebody is in between, or the gateway's root was replaced since: nothing was sent; ask for another bundle on a way that you trust"
    } else if any(|why| matches!(why, Why::Clock(_))) {
        "compare this machine's clock with the gateway's"
    } else if any(|why| matches!(why, Why::Root)) {
        "somebody is in between, or the gateway's root was replaced: `doorward ca bundle` there prints what ca.crt must hold"
    } else if any(|why| matches!(why, Why::Proxy(_))) {
        "is the proxy right, and does it let connections to the gateway pass?"
    } else if any(|why| matches!(why, Why::Name(_) | Why::NotServed(_))) {
        "is the name one of [listen] names in the gateway's config?"
    } else {
        "is the gateway running, and does a firewall let this machine reach it?"
    };
    Some(hint.to_owned())
}

fn refused_hint(refused: &Refused) -> Option<String> {
    let hint = match refused.code()? {
        Code::InvalidEnrollment => {
            "a bundle works once, until it expires, from its networks: ask for another (`doorward enroll create`)"
        }
        Code::CertificateRevoked => NEW_BUNDLE,
        Code::TooManyFailures | Code::Unavailable => "try again in a minute",
        Code::NotFound | Code::MethodNotAllowed | Code::Misdirected => "is the name the gateway's name for enrollment?",
        Code::BadCsr
        | Code::InvalidRequest
        | Code::BodyTooLarge
        | Code::UnsupportedMediaType
        | Code::CertificateRequired => "is the gateway of another version?",
    };
    Some(hint.to_owned())
}

impl Why {
    /// Why a handshake with `name` failed; `None` when it was because of the holder's certificate.
    #[must_use]
    pub fn of_handshake(error: &io::Error, name: &str) -> Self {
        use rustls::Error as Tls;
        let Some(tls) = tls_error(error) else { return Self::Handshake(error.to_string()) };
        #[expect(clippy::wildcard_enum_match_arm, reason = "rustls may add errors; what is not known is said as it is")]
        match tls {
            Tls::InvalidCertificate(fault) => Self::of_certificate(fault, name),
            Tls::AlertReceived(
                AlertDescription::UnrecognisedName
                | AlertDescription::AccessDenied
                | AlertDescription::HandshakeFailure,
            ) => Self::NotServed(name.to_owned()),
            Tls::AlertReceived(AlertDescription::NoApplicationProtocol) | Tls::NoApplicationProtocol => {
                Self::NotServed(format!("this protocol on {name}"))
            }
            other => Self::Handshake(other.to_string()),
        }
    }

    fn of_certificate(fault: &CertificateError, name: &str) -> Self {
        let at = |time: &rustls_pki_types::UnixTime| {
            Timestamp::from_seconds(i64::try_from(time.as_secs()).unwrap_or(i64::MAX)).to_string()
        };
        #[expect(clippy::wildcard_enum_match_arm, reason = "rustls may add errors; what is not known is said as it is")]
        match fault {
            CertificateError::Other(other) => match other.0.downcast_ref::<NotPinned>() {
                Some(NotPinned(pin)) => Self::Pin { pin: *pin },
                None => Self::Handshake(other.to_string()),
            },
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::Root,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::Name(name.to_owned())
            }
            CertificateError::ExpiredContext { time, not_after } => Self::Clock(format!(
                "its certificate ended at {}, and by this machine's clock it is {}",
                at(not_after),
                at(time)
            )),
            CertificateError::NotValidYetContext { time, not_before } => Self::Clock(format!(
                "its certificate begins at {}, and by this machine's clock it is {}",
                at(not_before),
                at(time)
            )),
            CertificateError::Expired => Self::Clock("its certificate has ended, by this machine's clock".to_owned()),
            CertificateError::NotValidYet => {
                Self::Clock("its certificate is not valid yet, by this machine's clock".to_owned())
            }
            other => Self::Handshake(format!("its certificate is not good: {other}")),
        }
    }
}

/// The TLS error somewhere in `error`.
fn tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // An I/O error hides what it wraps from `source`.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

fn attempts(attempts: &[Attempt]) -> String {
    match attempts {
        [] => ": it has no address".to_owned(),
        [only] => format!(" at {}: {}", only.address, only.why),
        several => several.iter().map(|attempt| format!("\n  at {}: {}", attempt.address, attempt.why)).collect(),
    }
}

fn code(refused: &Refused) -> String {
    if refused.code.is_empty() { String::new() } else { format!(" {}", printable(&refused.code)) }
}

fn detail(refused: &Refused) -> String {
    if refused.detail.is_empty() { String::new() } else { format!(": {}", printable(&refused.detail)) }
}

/// What came over the network must not move the cursor, or fill the screen.
fn printable(text: &str) -> String {
    const LONGEST: usize = 300;
    text.chars().take(LONGEST).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
