# What --opa asks: POST /v1/data/doorward/decision with {"input": QUESTION}. OPA answers {"result": …}, and the receiver
# adds the version and the request's id to it.
package doorward

import rego.v1

# Without this, what no rule fits would be an error and not a denial.
default decision := {"decision": "deny", "status": 403, "reason": "no rule fits"}

decision := {"decision": "allow", "ttl_s": 20, "overrides": narrowing} if {
	not suspended
	startswith(input.caller.owner, "acme/research/")
	startswith(input.request.model, "llama-")
	input.request.endpoint in {"openai.chat_completions", "openai.embeddings"}
}

decision := {
	"decision": "deny",
	"status": 402,
	"public_message": "Your project is suspended. Ask the help desk.",
	"reason": "suspended in opa.rego",
} if suspended

suspended if startswith(input.caller.owner, "acme/research/suspended/")

# Counts where allow_overrides of the webhook lists it.
default narrowing := {}

narrowing := {"max_tokens": 64} if startswith(input.caller.owner, "acme/research/guests/")
