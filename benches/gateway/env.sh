# Settings shared by the bench scripts; each can be set in the environment.
: "${BENCH_HOME:=${XDG_CACHE_HOME:-$HOME/.cache}/doorward/bench}" # installs, builds, certificates, results
: "${GW_CPU:=0}"                              # core of the gateway under test
: "${LOAD_CPU:=1}"                            # core of the load generator and the upstream
: "${UPSTREAM_PORT:=19000}"
: "${PORT:=18443}"                            # the gateway under test
: "${ADMIN_PORT:=18444}"                      # Doorward's metrics and health
: "${HOOK_PORT:=18445}"                       # the webhook of doorward-webhook
: "${BULK_PORT:=19001}"                       # the second upstream of run-prompts
: "${CONNECTIONS:=2}"                         # of a connector
: "${BEARER:=sk-bench-0123456789abcdef}"      # the key; Doorward makes its own
: "${WORKERS:=1}"                             # gateway worker threads (one core: 1)
: "${REQBUF:=off}"                            # nginx proxy_request_buffering
: "${SECONDS_PER_RUN:=4}"
: "${EVENTS:=5000}"                           # of events1, one each 5 ms; others have less of them in each stream
CERTS=$BENCH_HOME/certs
RUN=$BENCH_HOME/run
RESULTS=${RESULTS:-$BENCH_HOME/results.jsonl}
BIN=$BENCH_HOME/target/release
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${DOORWARD:=${CARGO_TARGET_DIR:-$HERE/../../target}/release/doorward}" # the binary under test
export DOORWARD
export CARGO_TARGET_DIR=$BENCH_HOME/target
# The numbers are per core: one scheduler thread for Go.
export GOMAXPROCS=$WORKERS
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"
