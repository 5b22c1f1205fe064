# The gateways under test. For each NAME:
#
#   start_NAME   starts it on 127.0.0.1:$PORT, pinned to $GW_CPU, in front of
#                127.0.0.1:$UPSTREAM_PORT, with the files in $CERTS (ca.pem,
#                server.pem, server.key, client.pem, client.key) and the one
#                key $BEARER; sets GW_PID (the top of its process tree).
#   req_NAME     sets SCHEME (https means mutual TLS), URL_PATH and the array
#                EXTRA (more loadgen options).
#
# To add a gateway write those two functions and put NAME into PEERS.

PEERS="direct nginx doorward doorward-alias doorward-many doorward-webhook doorward-tunnel haproxy envoy caddy litellm portkey lm-proxy"
MTLS_PEERS="nginx nginx-buf doorward doorward-alias doorward-many doorward-webhook doorward-tunnel haproxy envoy caddy"
# What runs when nothing is asked for; setup NAME... installs others.
DEFAULT_PEERS="direct nginx doorward doorward-alias"

# render TEMPLATE OUT: fills in @NAME@.
render() {
	sed -e "s|@PORT@|$PORT|g" -e "s|@UPSTREAM_PORT@|$UPSTREAM_PORT|g" -e "s|@CERTS@|$CERTS|g" \
		-e "s|@RUN@|$RUN|g" -e "s|@BEARER@|$BEARER|g" -e "s|@WORKERS@|$WORKERS|g" \
		-e "s|@REQBUF@|$REQBUF|g" -e "s|@ADMIN_PORT@|$ADMIN_PORT|g" -e "s|@CONNECTIONS@|$CONNECTIONS|g" -e "s|@TARGET_MODEL@|${TARGET_MODEL:-}|g" \
		"$HERE/conf/$1" >"$2"
}

# launch COMMAND...: pinned, in the background, output in $RUN/gw.log.
launch() {
	taskset -c "$GW_CPU" "$@" >"$RUN/gw.log" 2>&1 &
	GW_PID=$!
}

req_default() {
	SCHEME=https
	URL_PATH=/v1/chat/completions
	EXTRA=()
}

# No gateway: the load generator talks to the upstream.
start_direct() { GW_PID=; }
req_direct() { req_default; SCHEME=http; }

# Doorward with everything on: client certificate of a foreign authority, key,
# network, endpoint, model, strict reading of the body, and a record of each request.
start_doorward() {
	local TARGET_MODEL=${1:-bench-model}
	rm -rf "$RUN/doorward"
	mkdir -p "$RUN/doorward"
	render doorward.toml.in "$RUN/doorward/doorward.toml"
	serve_doorward
}

# make_key OWNER: makes a key, in $KEY.
make_key() {
	"$DOORWARD" key create --owner "$1" --expires 1d --output json \
		--config "$RUN/doorward/doorward.toml" >"$RUN/doorward/key.json" 2>"$RUN/gw.log" ||
		{ cat "$RUN/gw.log" >&2; exit 1; }
	KEY=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["key"])' "$RUN/doorward/key.json")
}

# Makes the key and starts the gateway, once the config is written.
serve_doorward() {
	make_key bench/clients/one
	BEARER=$KEY
	launch "$DOORWARD" serve --config "$RUN/doorward/doorward.toml"
}
req_doorward() { req_default; }

# As doorward, among many: 100,000 keys, 1,000 grants and 1,000 models. What is looked up must cost
# the same as with one of each.
start_doorward-many() {
	local TARGET_MODEL=bench-model i
	rm -rf "$RUN/doorward"
	mkdir -p "$RUN/doorward"
	render doorward.toml.in "$RUN/doorward/doorward.toml"
	for ((i = 0; i < 1000; i++)); do
		printf '[[grant]]\nowner = "tenant-%d"\nrequire = "key"\nnetworks = ["10.%d.%d.0/24"]\nmodels = ["m-%d-*"]\n' \
			"$i" $((i / 250)) $((i % 250)) "$i"
		printf '[[model]]\nname = "m-%d-chat"\ntargets = [{ backend = "upstream", model = "m" }]\n' "$i"
	done >>"$RUN/doorward/doorward.toml"
	for ((i = 0; i < 100000; i++)); do
		printf '{"owner":"tenant-%d/user","expires_at":"90d","external_id":"key-%d"}\n' $((i % 1000)) "$i"
	done >"$RUN/doorward/keys.jsonl"
	"$DOORWARD" key import "$RUN/doorward/keys.jsonl" --output json --config "$RUN/doorward/doorward.toml" \
		>/dev/null 2>"$RUN/gw.log" || { cat "$RUN/gw.log" >&2; exit 1; }
	serve_doorward
}
req_doorward-many() { req_default; }

# As doorward, but the backend knows the model by another name, so that the
# body and every event and reply are edited.
start_doorward-alias() { start_doorward backend-model; }
req_doorward-alias() { req_default; }

# As doorward, with a webhook that is asked about each request; nearly all decisions come from its cache.
start_doorward-webhook() {
	local TARGET_MODEL=bench-model
	rm -rf "$RUN/doorward"
	mkdir -p "$RUN/doorward"
	render doorward.toml.in "$RUN/doorward/doorward.toml"
	sed -i 's/^owner     = "bench"$/&\nwebhook   = "allow"/' "$RUN/doorward/doorward.toml"
	printf '\n[webhook.allow]\nurl = "http://127.0.0.1:%d/"\nsecrets = ["whsec_%s"]\ncache_allow = "5m"\n' \
		"$HOOK_PORT" "$(openssl rand -base64 32)" >>"$RUN/doorward/doorward.toml"
	taskset -c "$LOAD_CPU" python3 "$HERE/conf/allow.py" "$HOOK_PORT" >"$RUN/hook.log" 2>&1 &
	SIDE_PID=$!
	wait_port "$HOOK_PORT" "$SIDE_PID" 5
	serve_doorward
}
req_doorward-webhook() { req_default; }

# As doorward, but the backend is reached through a connector: gateway and connector are measured together.
start_doorward-tunnel() {
	tunnel_configs
	serve_tunnel
}

# Writes what gateway and connector run with.
tunnel_configs() {
	local TARGET_MODEL=bench-model
	rm -rf "$RUN/doorward"
	mkdir -p "$RUN/doorward"
	render doorward.toml.in "$RUN/doorward/doorward.toml"
	render connector.toml.in "$RUN/doorward/connector.toml"
	with_connectors
	sed -i -e "s|^url  .*|connector = \"site\"|" -e '/^credential = /d' "$RUN/doorward/doorward.toml"
}

# Has the gateway take connectors.
with_connectors() {
	sed -i -e 's/^names .*/names = { api = ["localhost"], connect = ["connect.localhost"] }/' \
		-e 's/^\[admin\]$/[ca]\ntrust_domain = "gateway.example"\n\n&/' "$RUN/doorward/doorward.toml"
}

# connector_identities NAME...: makes the authority and their certificates, in $RUN/doorward/NAME.
connector_identities() {
	local config=$RUN/doorward/doorward.toml name
	"$DOORWARD" ca init --trust-domain gateway.example --config "$config" >"$RUN/gw.log" 2>&1 || { cat "$RUN/gw.log" >&2; exit 1; }
	for name in "$@"; do
		"$DOORWARD" cert issue "$name" --role connector --config "$config" --out "$RUN/doorward/$name" >"$RUN/gw.log" 2>&1 ||
			{ cat "$RUN/gw.log" >&2; exit 1; }
	done
}

# Starts gateway and connector, once the configs are written, and waits for the tunnels.
serve_tunnel() {
	connector_identities site
	make_key bench/clients/one
	BEARER=$KEY
	launch bash -c '"$0" serve --config "$1/doorward.toml" & "$0" connect --config "$1/connector.toml" & wait' \
		"$DOORWARD" "$RUN/doorward"
	wait_port "$PORT" "$GW_PID" 10
	wait_metric doorward_tunnels "$CONNECTIONS" 10 || { echo "the connector did not connect:" >&2; tail -20 "$RUN/gw.log" >&2; exit 1; }
}
req_doorward-tunnel() { req_default; }

start_nginx() {
	render nginx.conf.in "$RUN/nginx.conf"
	launch nginx -p "$RUN" -c "$RUN/nginx.conf"
}
req_nginx() { req_default; }

# As nginx, but the whole request body is read before the backend sees it
# (what a gateway that looks into the body must do).
start_nginx-buf() { REQBUF=on start_nginx; }
req_nginx-buf() { req_default; }

start_haproxy() {
	render haproxy.cfg.in "$RUN/haproxy.cfg"
	launch haproxy -db -f "$RUN/haproxy.cfg"
}
req_haproxy() { req_default; }

start_envoy() {
	render envoy.yaml.in "$RUN/envoy.yaml"
	launch "$BENCH_HOME/envoy/bin/envoy" -c "$RUN/envoy.yaml" --concurrency "$WORKERS" -l warn --disable-hot-restart
}
req_envoy() { req_default; }

start_caddy() {
	render caddy.json.in "$RUN/caddy.json"
	XDG_DATA_HOME=$RUN XDG_CONFIG_HOME=$RUN launch "$BENCH_HOME/caddy/bin/caddy" run --config "$RUN/caddy.json"
}
req_caddy() { req_default; }

start_litellm() {
	render litellm.yaml.in "$RUN/litellm.yaml"
	LITELLM_LOCAL_MODEL_COST_MAP=True LITELLM_TELEMETRY=False LITELLM_LOG=ERROR NO_DOCS=True DISABLE_ADMIN_UI=True \
		launch "$BENCH_HOME/litellm/bin/litellm" --config "$RUN/litellm.yaml" --host 127.0.0.1 --port "$PORT" \
		--num_workers 1 --telemetry False
}
req_litellm() { req_default; SCHEME=http; }

start_portkey() {
	NODE_ENV=production launch node "$BENCH_HOME/portkey/node_modules/@portkey-ai/gateway/build/start-server.js" \
		--headless "--port=$PORT"
}
req_portkey() {
	req_default
	SCHEME=http
	EXTRA=(--header 'x-portkey-provider: openai' --header "x-portkey-custom-host: http://127.0.0.1:$UPSTREAM_PORT/v1")
}

start_lm-proxy() {
	render lm-proxy.toml.in "$RUN/lm-proxy.toml"
	launch "$BENCH_HOME/lmproxy/bin/lm-proxy" --config "$RUN/lm-proxy.toml"
}
req_lm-proxy() { req_default; SCHEME=http; }
