//! Check 8, second half: which targets may serve an admitted request; and in which order they are
//! tried, which is the choice of check 12.

use std::sync::Arc;

use crate::backend::transport::Way;
use crate::domain::refusal::Refusal;
use crate::domain::route::order;
use crate::gate::View;
use crate::gate::admit::Admitted;
use crate::gate::worker::Worker;

/// Proof that an admitted request has somewhere to go.
#[derive(Debug)]
pub struct Routed {
    /// What was admitted.
    pub admitted: Admitted,
    /// Where to go, best first; never empty.
    pub stops: Vec<Stop>,
}

/// One target of a model.
#[derive(Debug)]
pub struct Stop {
    /// The way to the backend.
    pub way: Arc<Way>,
    /// The backend's own name of the model.
    pub model: Arc<str>,
}

/// Finds the targets of the model that was asked for.
///
/// # Errors
///
/// `model_not_found` when the alias has no target for this endpoint: for the caller it does not
/// exist there.
pub fn route(worker: &Worker, view: &View, admitted: Admitted) -> Result<Routed, Refusal> {
    let settings = &view.settings;
    let endpoint = admitted.endpoint;
    let model = settings.model(&admitted.request.model);
    let candidates = model.map(|model| model.candidates(endpoint, settings.speaking(endpoint))).unwrap_or_default();
    let stops: Vec<Stop> = order(candidates, |below| worker.draw(below))
        .into_iter()
        .filter_map(|target| {
            let way = settings.ways.get(target.backend.0)?;
            Some(Stop { way: Arc::clone(way), model: Arc::clone(&target.model) })
        })
        .collect();
    if stops.is_empty() { Err(Refusal::ModelNotFound { by: None }) } else { Ok(Routed { admitted, stops }) }
}
