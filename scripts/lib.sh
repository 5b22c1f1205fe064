# Sourced by the scripts beside it: what is installed, what is started, what is stopped.
# shellcheck shell=bash disable=SC2034

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/doorward
target=${CARGO_TARGET_DIR:-$repo/target}
unset DOORWARD_CONFIG # the caller's own gateway is none of ours

note() { printf '%s\n' "$*" >&2; }
section() { printf '\n== %s\n' "$*"; }
fail() {
	printf '\nFAILED: %s\n' "$*" >&2
	exit 1
}

# ensure_packages COMMAND:PACKAGE...: Debian packages for the commands that are not there.
ensure_packages() {
	local pair missing=()
	for pair in "$@"; do
		command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
	done
	if command -v python3 >/dev/null && ! python3 -c 'import ensurepip' 2>/dev/null; then
		missing+=(python3-venv)
	fi
	[ ${#missing[@]} -eq 0 ] && return
	note "installing ${missing[*]}"
	[ "$(id -u)" = 0 ] || fail "missing: ${missing[*]}; install them, or run this as root"
	apt-get update -q >&2
	# RUNLEVEL=1 keeps Debian's packages from starting services.
	RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
}

# python_environment NAME: sets $environment to a virtual environment with requirements/NAME.txt.
python_environment() {
	local wanted=$repo/scripts/requirements/$1.txt
	environment=$cache/venv/$1
	mkdir -p "$cache/venv"
	exec 9>"$environment.lock"
	flock -w 900 9 || fail "another run holds $environment.lock"
	if ! cmp -s "$wanted" "$environment/requirements.txt" || ! "$environment/bin/python" -c '' 2>/dev/null; then
		note "installing Python packages: $1"
		rm -rf "$environment"
		python3 -m venv "$environment"
		if ! "$environment/bin/pip" install --quiet --disable-pip-version-check -r "$wanted" >&2; then
			exec 9>&-
			return 1
		fi
		cp "$wanted" "$environment/requirements.txt"
	fi
	exec 9>&-
}

# cargo_plugins: cargo-nextest and cargo-deny in $PATH, prebuilt where there is a wheel.
cargo_plugins() {
	if ! cargo nextest --version >/dev/null 2>&1 || ! cargo deny --version >/dev/null 2>&1; then
		if python_environment tools; then
			PATH=$PATH:$environment/bin
		else
			note "no prebuilt cargo-nextest and cargo-deny for this machine: building them, which takes minutes"
			cargo install --locked cargo-nextest@0.9.148 cargo-deny@0.20.2
		fi
	fi
}

# model_server: sets $model_python and $model_file, which $repo/scripts/model-server needs.
model_server() {
	python_environment model-server || fail "the model server's Python packages cannot be installed"
	model_python=$environment/bin/python
	model_file=$environment/tiny.gguf
	[ -s "$model_file" ] && return
	"$model_python" "$repo/scripts/model-server/make-gguf.py" "$model_file.part" >&2
	mv "$model_file.part" "$model_file"
}

# client_environment: sets $client_python, which has the official SDKs and pytest.
client_environment() {
	python_environment clients || fail "the clients' Python packages cannot be installed"
	client_python=$environment/bin/python
}

# node_environment: sets $node_modules, which has the npm packages of requirements/node.
node_environment() {
	local wanted=$repo/scripts/requirements/node environment=$cache/node
	node_modules=$environment/node_modules
	mkdir -p "$environment"
	exec 9>"$environment.lock"
	flock -w 900 9 || fail "another run holds $environment.lock"
	if ! cmp -s "$wanted/package-lock.json" "$environment/installed.json"; then
		note "installing npm packages"
		cp "$wanted/package.json" "$wanted/package-lock.json" "$environment"
		(cd "$environment" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2) ||
			fail "the npm packages cannot be installed"
		cp "$wanted/package-lock.json" "$environment/installed.json"
	fi
	exec 9>&-
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# free_port_pair: a free port whose next one is free too; `doorward up` takes both.
free_port_pair() {
	python3 - <<'PY'
import socket
while True:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
        try:
            two.bind(("127.0.0.1", port + 1))
        except (OSError, OverflowError):
            continue
    print(port)
    break
PY
}

# wait_until SECONDS COMMAND...: tries until it succeeds.
wait_until() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

started=()

detach=

# start NAME COMMAND...: in the background, output in NAME.out and NAME.log; sets $pid.
start() {
	local name=$1
	shift
	$detach "$@" </dev/null >"$name.out" 2>"$name.log" &
	pid=$!
	started+=("$pid")
}

# stop_started: ends what start began, the last first, and waits for it.
stop_started() {
	local i process
	for ((i = ${#started[@]} - 1; i >= 0; i--)); do
		process=${started[i]}
		kill -TERM "$process" 2>/dev/null || continue
		wait_until 35 not_running "$process" || kill -KILL "$process" 2>/dev/null
		wait "$process" 2>/dev/null
	done
	started=()
}

not_running() { ! kill -0 "$1" 2>/dev/null || grep -q '^State:.Z' "/proc/$1/status"; }
