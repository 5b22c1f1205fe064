//! The end of check 10: as many tokens as the webhooks allow are enough for all replies that were asked for.
//!
//! Invariant: what goes on to a backend asks for no more tokens, in all its replies together, than any
//! webhook allows. Each reply has at least one, so whoever asks for more replies than that is refused.

use crate::config::Override;
use crate::domain::refusal::Refusal;
use crate::gate::route::Routed;
use crate::gate::worker::Worker;

/// Checks a request against the tokens that it may have in all. `body` is the one that it came with.
///
/// # Errors
///
/// `denied_by_webhook` when there are fewer of them than replies.
pub fn check(worker: &Worker, routed: &Routed, body: &[u8]) -> Result<(), Refusal> {
    let admitted = &routed.admitted;
    let Some(most) = admitted.max_tokens else { return Ok(()) };
    let replies = admitted.request.replies(body);
    // As it is written into the body: 0 is no end for some backends.
    let most = most.max(1);
    if replies <= most {
        return Ok(());
    }
    let view = worker.gateway.view();
    let narrows = |name| {
        let webhook = view.settings.webhooks.get(name)?.webhook();
        webhook.allow_overrides.contains(&Override::MaxTokens).then_some(())
    };
    // Of several that may narrow, the first; only after a reload there may be none left.
    let hooks = &admitted.hooks;
    let hooked = hooks.iter().find(|hooked| narrows(&hooked.name).is_some()).or_else(|| hooks.first());
    let Some(hooked) = hooked else {
        return Err(Refusal::Overloaded("What is allowed changes too often at the moment. Try again."));
    };
    Err(Refusal::DeniedByWebhook {
        name: hooked.name.clone(),
        status: 403,
        message: format!(
            "The organisation's policy gives this request {most} tokens, and it asks for {replies} replies: ask for \
             fewer (n, best_of, prompts)."
        )
        .into(),
        reason: Some(format!("its max_tokens, {most}, are fewer than the {replies} replies asked for").into()),
        retry_after: None,
    })
}
