# Helpers for run-peer, run-all and check.
. "$HERE/peers.sh"

UP_PID=
GW_PID=
SIDE_PID=
COMMON_BEARER=$BEARER
FIRST=() # what the tools are started with
WORKLOADS="chat lat1 rate handshake sse0 sse10 sse200 events1 events16 batch16 big h2 mem"

wait_port() { # PORT PID SECONDS
	local i
	for ((i = 0; i < $3 * 10; i++)); do
		(exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return 0
		kill -0 "$2" 2>/dev/null || return 1
		sleep 0.1
	done
	return 1
}

metric() { # NAME: its value at the gateway, nothing where there is none
	curl -sS "http://127.0.0.1:$ADMIN_PORT/metrics" 2>/dev/null | awk -v name="$1" '$1 == name { print $2 }'
}

wait_metric() { # NAME VALUE SECONDS
	local i
	for ((i = 0; i < $3 * 10; i++)); do
		[ "$(metric "$1")" = "$2" ] && return 0
		sleep 0.1
	done
	return 1
}

port_free() { # PORT: true as soon as nobody listens there, false after 3 s
	local i
	for ((i = 0; i < 30; i++)); do
		(exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null || return 0
		sleep 0.1
	done
	return 1
}

descendants() { # PID: it and all below it
	echo "$1"
	local c
	for c in $(cat /proc/"$1"/task/*/children 2>/dev/null); do descendants "$c"; done
}

stop_tree() { # PID
	[ -n "${1:-}" ] || return 0
	local all p i
	all=$(descendants "$1")
	kill -TERM "$1" 2>/dev/null
	for ((i = 0; i < 30; i++)); do
		kill -0 "$1" 2>/dev/null || break
		sleep 0.1
	done
	for p in $all; do kill -KILL "$p" 2>/dev/null; done
	wait "$1" 2>/dev/null
	return 0
}

start_upstream() {
	[ -n "$UP_PID" ] && kill -0 "$UP_PID" 2>/dev/null && return
	port_free "$UPSTREAM_PORT" || { echo "port $UPSTREAM_PORT is taken" >&2; exit 1; }
	UPSTREAM_ADDR=127.0.0.1:$UPSTREAM_PORT "${FIRST[@]}" taskset -c "$LOAD_CPU" "$BIN/upstream" 2>"$RUN/upstream.log" &
	UP_PID=$!
	wait_port "$UPSTREAM_PORT" "$UP_PID" 5
}

upstream_config() { # chunks=N&delay_ms=D
	curl -s -o /dev/null "http://127.0.0.1:$UPSTREAM_PORT/config?$1"
}

start_peer() { # NAME
	PEER=$1
	BEARER=$COMMON_BEARER
	start_upstream
	port_free "$PORT" || { echo "port $PORT is taken" >&2; exit 1; }
	"start_$PEER"
	if [ -n "$GW_PID" ]; then
		wait_port "$PORT" "$GW_PID" 90 || { echo "$PEER did not start:" >&2; tail -20 "$RUN/gw.log" >&2; stop_all; exit 1; }
		sleep 0.5
	fi
	"req_$PEER"
	if [ "$PEER" = direct ]; then
		TARGET=http://127.0.0.1:$UPSTREAM_PORT$URL_PATH
	else
		TARGET=$SCHEME://localhost:$PORT$URL_PATH
	fi
	TLS=()
	[ "$SCHEME" = https ] && TLS=(--ca "$CERTS/ca.pem" --cert "$CERTS/client.pem" --key "$CERTS/client.key")
	WATCH=()
	[ -n "$GW_PID" ] && WATCH=(--watch-pid "$GW_PID" --watch-cpu "$GW_CPU")
	return 0
}

stop_peer() {
	stop_tree "$GW_PID"
	GW_PID=
	stop_tree "$SIDE_PID"
	SIDE_PID=
}

stop_all() {
	stop_peer
	[ -n "$UP_PID" ] && kill "$UP_PID" 2>/dev/null && wait "$UP_PID" 2>/dev/null
	UP_PID=
	return 0
}

load() { # loadgen options...
	"${FIRST[@]}" taskset -c "$LOAD_CPU" "$BIN/loadgen" --url "$TARGET" "${TLS[@]}" "${EXTRA[@]}" "${WATCH[@]}" \
		--bearer "$BEARER" --label "peer=$PEER" --duration "$SECONDS_PER_RUN" "$@"
}

# RSS and PSS of a process tree in KiB.
memory() { # PID
	local p rss=0 pss=0 n=0 r
	for p in $(descendants "$1"); do
		r=$(awk '/^Rss:/{r=$2} /^Pss:/{p=$2} END{print r+0, p+0}' "/proc/$p/smaps_rollup" 2>/dev/null) || continue
		rss=$((rss + ${r% *})) pss=$((pss + ${r#* })) n=$((n + 1))
	done
	echo "$rss $pss $n"
}

bodies() {
	mkdir -p "$RUN/bodies"
	[ -s "$RUN/bodies/big.json" ] && return
	python3 - "$RUN/bodies" <<'PY'
import json, sys
d = sys.argv[1]
text = "Summarise in two sentences what a reverse proxy does for a model server, then name three checks that it should make before a request goes through. "
def make(name, size, **extra):
    def body(n):
        t = (text * (n // len(text) + 1))[:n]
        return json.dumps({"model": "bench-model", "messages": [{"role": "system", "content": "You are a terse assistant."}, {"role": "user", "content": t}], "max_tokens": 128, "temperature": 0.7, **extra})
    n = size - len(body(0))
    open(f"{d}/{name}.json", "w").write(body(n))
make("small", 500)
make("stream", 500, stream=True, stream_options={"include_usage": True})
make("big", 256 * 1024)
PY
}

# workload NAME: one measured run against the running peer, one JSON line out.
workload() {
	local w=$1 b=$RUN/bodies l
	l=(--label "workload=$w" --label "repeat=${REPEAT:-1}" --label "time=$(date -u +%H:%M:%S)")
	upstream_config 'chunks=100&delay_ms=0'
	case $w in
	chat) load "${l[@]}" --concurrency 64 --requests 200000 --warmup "${WARMUP:-20}" --body "$b/small.json" ;;
	lat1) load "${l[@]}" --concurrency 1 --requests 4000 --warmup 200 --body "$b/small.json" ;;
	rate) load "${l[@]}" --concurrency 64 --requests 200000 --warmup 10 --rate "${RATE:-1000}" --body "$b/small.json" ;;
	handshake) load "${l[@]}" --concurrency 16 --requests 100000 --warmup 4 --new-conn --insecure --body "$b/small.json" ;;
	sse0) load "${l[@]}" --concurrency 32 --requests 100000 --warmup 1 --sse --body "$b/stream.json" ;;
	sse10)
		upstream_config 'chunks=100&delay_ms=10'
		load "${l[@]}" --concurrency 32 --requests 100000 --warmup 1 --sse --body "$b/stream.json"
		;;
	sse200)
		# 200 streams at 50 tokens a second each.
		upstream_config 'chunks=100&delay_ms=20'
		load "${l[@]}" --concurrency 200 --requests 100000 --warmup 0 --sse --body "$b/stream.json"
		;;
	events1)
		upstream_config "chunks=$EVENTS&delay_ms=5"
		load "${l[@]}" --concurrency 1 --requests 1 --warmup 0 --sse --body "$b/stream.json"
		;;
	events16)
		# They begin one after another, so that each has events of its own.
		upstream_config "chunks=$((EVENTS / 5))&delay_ms=10"
		load "${l[@]}" --concurrency 16 --requests 16 --warmup 0 --rate 1600 --sse --body "$b/stream.json"
		;;
	batch16)
		# As a model server that decodes in batches: 16 events at the same time.
		upstream_config "chunks=$((EVENTS / 5))&delay_ms=10"
		load "${l[@]}" --concurrency 16 --requests 16 --warmup 0 --sse --body "$b/stream.json"
		;;
	big) load "${l[@]}" --concurrency 16 --requests 100000 --warmup 4 --body "$b/big.json" ;;
	h2) load "${l[@]}" --concurrency 64 --requests 200000 --warmup 20 --h2 --body "$b/small.json" ;;
	mem) mem_workload "${IDLE_CONNS:-2000}" ;;
	*) echo "no workload $w ($WORKLOADS)" >&2; return 2 ;;
	esac
}

# Memory at rest, with N idle connections (mutual TLS where the peer does it)
# that each carried one request. The peer is started afresh by the caller.
mem_workload() {
	local n=$1 a b pid i
	[ -n "$GW_PID" ] || return 0
	sleep 1
	a=$(memory "$GW_PID")
	load --concurrency 1 --requests 1 --idle "$n" --hold 8 --body "$RUN/bodies/small.json" >"$RUN/idle.json" 2>"$RUN/idle.err" &
	pid=$!
	for ((i = 0; i < 600; i++)); do
		grep -q READY "$RUN/idle.err" && break
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.1
	done
	sleep 3
	b=$(memory "$GW_PID")
	wait "$pid"
	python3 - "$PEER" "$n" "$a" "$b" "$RUN/idle.json" "${REPEAT:-1}" <<'PY'
import json, sys
peer, n, a, b, f, rep = sys.argv[1:]
a, b = [list(map(int, x.split())) for x in (a, b)]
r = json.load(open(f))
held = r["idle_opened"]
print(json.dumps({"peer": peer, "workload": "mem", "repeat": rep, "rss0_kib": a[0], "pss0_kib": a[1], "processes": a[2],
  "rss1_kib": b[0], "pss1_kib": b[1], "kib_per_conn": round((b[1] - a[1]) / max(held, 1), 2), **r}))
PY
}
