# What --opa asks: POST /v1/data/doorward/decision with {"input": QUESTION}. OPA answers {"result": …}, and the receiver
# adds the version and the request's id to it.
package doorward

import rego.v1

default decision := {"decision": "deny", "status": 403, "reason": "no rule fits"}

decision := {"decision": "allow", "ttl_s": 20} if {
	startswith(input.caller.owner, "acme/research/")
	startswith(input.request.model, "llama-")
}
