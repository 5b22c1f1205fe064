//! The names of the listener that are not for callers: enrollment and connectors.
//!
//! Invariant: a connection belongs to the one role of the server name that it asked for, from its
//! handshake on. What serves the other roles is put in by the composition root; nothing of the
//! request path is reached through them.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::config::Names;
use crate::gate::Gateway;
use crate::gate::arrival::Place;
use crate::gate::connection::Peer;
use crate::tls::read_ahead::ReadAhead;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Requests of callers: the request path.
    Api,
    /// Enrollment, renewal, lists of what is revoked.
    Enroll,
    /// Tunnels of connectors.
    Connect,
}

impl Role {
    /// The role of a server name in lower case; `None` when it is nobody's. Who asks for no name is
    /// a caller: clients that reach us at an address send none.
    #[must_use]
    pub fn of(names: &Names, sni: Option<&str>) -> Option<Self> {
        let Some(sni) = sni else { return Some(Self::Api) };
        let among = |names: &[String]| names.iter().any(|name| name == sni);
        if among(&names.api) {
            Some(Self::Api)
        } else if among(&names.enroll) {
            Some(Self::Enroll)
        } else if among(&names.connect) {
            Some(Self::Connect)
        } else {
            None
        }
    }
}

/// TLS by role.
#[derive(Debug)]
pub struct RoleTls {
    /// For the `api` names.
    pub api: Arc<ServerConfig>,
    /// For the `enroll` names; `None` when they are not served.
    pub enroll: Option<Arc<ServerConfig>>,
    /// For the `connect` names; `None` when they are not served.
    pub connect: Option<Arc<ServerConfig>>,
    /// Ends every handshake with an alert: for names that are nobody's.
    pub refusing: Arc<ServerConfig>,
}

impl RoleTls {
    /// What a connection shakes hands with.
    #[must_use]
    pub fn of(&self, role: Option<Role>) -> &Arc<ServerConfig> {
        let config = match role {
            Some(Role::Api) => Some(&self.api),
            Some(Role::Enroll) => self.enroll.as_ref(),
            Some(Role::Connect) => self.connect.as_ref(),
            None => None,
        };
        config.unwrap_or(&self.refusing)
    }
}

/// Serves the connections of one role. It runs on the worker that accepted the connection, and must
/// not block it.
pub trait RoleServer: fmt::Debug + Send + Sync {
    /// Serves one connection until its end. Bounds and deadlines are the server's own.
    fn serve(&self, arrived: Arrived) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// What serves the roles besides [`Role::Api`].
#[derive(Clone, Default, Debug)]
pub struct RoleServers {
    /// For [`Role::Enroll`].
    pub enroll: Option<Arc<dyn RoleServer>>,
    /// For [`Role::Connect`].
    pub connect: Option<Arc<dyn RoleServer>>,
}

impl RoleServers {
    /// The server of a role; `None` for callers, and for roles that are not served.
    #[must_use]
    pub const fn of(&self, role: Role) -> Option<&Arc<dyn RoleServer>> {
        match role {
            Role::Api => None,
            Role::Enroll => self.enroll.as_ref(),
            Role::Connect => self.connect.as_ref(),
        }
    }
}

/// A connection that has shaken hands for a role.
#[derive(Debug)]
pub struct Arrived {
    /// The connection.
    pub stream: TlsStream<ReadAhead<TcpStream>>,
    /// What is known of who is there.
    pub peer: Peer,
    /// The gateway that it arrived at.
    pub gateway: Arc<Gateway>,
    /// Its place among all connections; kept for as long as it is open.
    pub place: Place,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_role_and_no_name_is_a_caller() {
        let names = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let all = Names { api: names(&["llm.x"]), enroll: names(&["enroll.x"]), connect: names(&["connect.x"]) };
        assert_eq!(Role::of(&all, None), Some(Role::Api));
        assert_eq!(Role::of(&all, Some("llm.x")), Some(Role::Api));
        assert_eq!(Role::of(&all, Some("enroll.x")), Some(Role::Enroll));
        assert_eq!(Role::of(&all, Some("connect.x")), Some(Role::Connect));
        assert_eq!(Role::of(&all, Some("other.x")), None);
    }
}
