//! Which gateway a verb is about: the one whose state is on this machine, or one that is reached
//! through its admin API. The verb itself is the same: an operation of [`crate::manage`].

use std::path::PathBuf;

use clap::Args;

use crate::ca::authority::Authority;
use crate::cli::ca;
use crate::cli::output::Failure;
use crate::cli::place::Place;
use crate::cli::remote::{AdminUrl, Remote};
use crate::clock::Clock;
use crate::config;
use crate::manage::enrollments::Enrollment;
use crate::manage::fault::{Code, Fault};
use crate::manage::operation::Operation;
use crate::manage::page::Page;
use crate::manage::{Manager, Policy};
use crate::store::Store;

/// The options that every verb which can act on a remote gateway takes.
#[derive(Clone, Debug, Args)]
pub struct Reach {
    #[command(flatten)]
    place: Place,
    /// Ask a running gateway's admin API instead: https://HOST:PORT or unix:/PATH/admin.sock
    #[arg(long, value_name = "URL", value_parser = AdminUrl::parse, conflicts_with_all = ["config", "state"])]
    admin: Option<AdminUrl>,
    /// Where the operator's certificate for --admin https://… is: NAME.crt, NAME.key and ca.crt
    #[arg(long, value_name = "DIR", requires = "admin")]
    operator: Option<PathBuf>,
}

/// What carries out operations.
#[derive(Debug)]
pub enum Reached {
    /// The store on this machine.
    Local(Box<Local>),
    /// A gateway's admin API.
    Remote(Remote),
}

/// The state on this machine.
#[derive(Debug)]
pub struct Local {
    state_dir: PathBuf,
    store: Store,
    policy: Policy,
}

impl Reach {
    /// The place on this machine.
    #[must_use]
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// True when the verb is about this machine's state.
    #[must_use]
    pub const fn is_local(&self) -> bool {
        self.admin.is_none()
    }

    /// Reaches a store that must be there: a mistyped directory is no empty store.
    ///
    /// # Errors
    ///
    /// When there is none or it cannot be opened, or the operator's certificate cannot be read.
    pub fn existing(&self) -> Result<Reached, Failure> {
        self.open(Place::existing_store)
    }

    /// Reaches a store that is made if it is missing.
    ///
    /// # Errors
    ///
    /// As [`Self::existing`].
    pub fn any(&self) -> Result<Reached, Failure> {
        self.open(Place::store)
    }

    fn open(&self, store: impl FnOnce(&Place) -> Result<Store, Failure>) -> Result<Reached, Failure> {
        if let Some(url) = &self.admin {
            return Remote::new(url.clone(), self.operator.as_deref()).map(Reached::Remote);
        }
        let state_dir = self.place.state_dir()?;
        let config = match self.place.config_file() {
            None => Ok(None),
            Some(file) => config::declared(&file)
                .map(Some)
                .map_err(|problems| Fault::config(&file.display().to_string(), "the grants and keys", &problems)),
        };
        let authority = Authority::open(&ca::directory(&state_dir)).ok();
        let reachable = match self.place.config_file() {
            None => Ok(None),
            Some(file) => config::reachable(&file)
                .map(Some)
                .map_err(|problems| Fault::config(&file.display().to_string(), "what [listen] says", &problems)),
        };
        let root = authority.as_ref().map(|authority| authority.root().clone());
        let policy = Policy {
            config,
            trust_domain: authority.map(|authority| authority.trust_domain().clone()),
            enrollment: Enrollment { reachable, root },
        };
        Ok(Reached::Local(Box::new(Local { store: store(&self.place)?, state_dir, policy })))
    }
}

impl Reached {
    /// Carries out an operation.
    ///
    /// # Errors
    ///
    /// When it was not done. Wrong fields are called by the names of their options.
    pub fn perform<O: Operation>(&mut self, operation: O) -> Result<O::Answer, Failure> {
        self.attempt(operation)?.map_err(said)
    }

    /// As [`Self::perform`], with the fault as it is.
    ///
    /// # Errors
    ///
    /// When nobody could be asked.
    pub fn attempt<O: Operation>(&mut self, operation: O) -> Result<Result<O::Answer, Fault>, Failure> {
        match self {
            Self::Remote(remote) => remote.perform(&operation),
            Self::Local(local) => Ok(operation.perform(&mut Manager {
                store: &mut local.store,
                state_dir: &local.state_dir,
                policy: &local.policy,
                now: Clock::System.now(),
            })),
        }
    }

    /// Gathers all pages of a list; `ask` makes the request for the page at a cursor.
    ///
    /// # Errors
    ///
    /// As [`Self::perform`].
    pub fn all<O, T>(&mut self, ask: impl Fn(Option<String>) -> O) -> Result<Vec<T>, Failure>
    where
        O: Operation<Answer = Page<T>>,
    {
        let (mut all, mut cursor) = (Vec::new(), None);
        loop {
            let page = self.perform(ask(cursor))?;
            all.extend(page.items);
            match page.next {
                None => return Ok(all),
                next => cursor = next,
            }
        }
    }
}

/// What a fault means on the command line.
#[must_use]
pub fn said(fault: Fault) -> Failure {
    if fault.code == Code::InvalidRequest && !fault.wrong.is_empty() {
        return Failure::Usage(
            fault.wrong.iter().map(|wrong| format!("{}: {}", option(&wrong.field), wrong.message)).collect(),
        );
    }
    Failure::Said { what: fault.message, hint: fault.hint }
}

/// The option that a field is given with.
fn option(field: &str) -> &str {
    match field {
        "owner" => "--owner",
        "networks" => "--network",
        "endpoints" => "--endpoint",
        "models" | "model" => "--model",
        "cors_origins" => "--cors-origin",
        "key" => "--key",
        "identity" => "--identity",
        "from" => "--from",
        "endpoint" => "--endpoint",
        "at" => "--at",
        "require" => "--require",
        "expires_at" => "--expires",
        "not_before" => "--not-before",
        "uses" | "uses_left" => "--uses",
        "refund_on_failure" => "--refund-on-failure",
        "bound_to" => "--bind",
        "labels" => "--label",
        "note" => "--note",
        "external_id" => "--external-id",
        "overlap" => "--overlap",
        "reason" => "--reason",
        "default_key_ttl" => "--default-key-ttl",
        "max_key_ttl" => "--max-key-ttl",
        "webhook" => "--webhook",
        "accept_fail_open" => "--accept-fail-open",
        "expiring" => "--expiring",
        "name" => "NAME",
        "role" => "--role",
        "ttl" => "--ttl",
        "addresses" => "--address",
        other => other,
    }
}
