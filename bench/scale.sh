#!/usr/bin/env bash
# A catalog of millions of paths: memory, restart, and latency while a generation is adopted; see README.md.
# Environment: PATHS (2200000), RATE (5000 requests/s), MANYHANDS (the binary; without it a release build is made),
# BENCH=short (a minute with a debug build: shows that everything here works; the figures mean nothing).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
profile=release
idle_secs=5
busy_secs=20
if [[ ${BENCH:-} == short ]]; then
    profile=dev
    idle_secs=1
    busy_secs=8
    : "${PATHS:=20000}" "${RATE:=100}"
fi
paths=${PATHS:-2200000}
rate=${RATE:-5000}
target=${CARGO_TARGET_DIR:-$root/target}/${profile/dev/debug}

fail() {
    echo "bench: $*" >&2
    exit 1
}

for tool in curl nginx; do
    command -v "$tool" >/dev/null || fail "$tool is missing: run tests/setup.sh"
done
cargo build --profile "$profile" --locked --examples --manifest-path "$root/Cargo.toml"
if [[ -z ${MANYHANDS:-} ]]; then
    cargo build --profile "$profile" --locked --manifest-path "$root/Cargo.toml"
    MANYHANDS=$target/manyhands
fi

work=$(mktemp -d)
server=
origin=
clean_up() {
    local status=$?
    for process in $server $origin; do
        kill "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    if [[ $status != 0 ]]; then
        tail -n 20 "$work"/*.log >&2 || true
    fi
    rm -rf "$work"
}
trap clean_up EXIT

milliseconds() { echo $(($(date +%s%N) / 1000000)); }

# The value of a field in the last line of the log with this message: field LOG MESSAGE NAME
field() {
    sed -n '/"message": *"'"$2"'"/s/.*"'"$3"'": *"\{0,1\}\([^",}]*\).*/\1/p' "$1" | tail -n 1
}

# A value of /proc/PID/status in MiB.
memory() { awk -v name="$1:" '$1 == name { printf "%.0f", $2 / 1024 }' "/proc/$server/status"; }

# Starts the server and waits until it answers for the first path; prints the milliseconds that took.
start() {
    local begin log=$1
    begin=$(milliseconds)
    "$MANYHANDS" --log-format json serve --config "$work/serve.toml" 2>"$log" &
    server=$!
    until address=$(field "$log" ready listen) && [[ -n $address ]]; do
        kill -0 "$server" 2>/dev/null || fail "the server ended early"
        sleep 0.01
    done
    until curl -sfI -o "$work/head" "http://$address$probe"; do
        kill -0 "$server" 2>/dev/null || fail "the server ended early"
        sleep 0.01
    done
    echo "$(($(milliseconds) - begin))"
}

stop() {
    kill "$server"
    wait "$server" || true
    server=
}

# Serves what was written: an upstream, since of a tree the packages themselves would be read.
start_origin() {
    for ((try = 0; try < 20; try++)); do
        port=$((20000 + RANDOM % 10000))
        cat >"$work/nginx.conf" <<EOF
worker_processes 1;
daemon off;
pid $work/nginx.pid;
error_log stderr error;
events { worker_connections 512; }
http {
    access_log off;
    client_body_temp_path $work/nginx-body;
    proxy_temp_path $work/nginx-proxy;
    fastcgi_temp_path $work/nginx-fastcgi;
    uwsgi_temp_path $work/nginx-uwsgi;
    scgi_temp_path $work/nginx-scgi;
    server { listen 127.0.0.1:$port; root $work/tree; }
}
EOF
        nginx -e stderr -p "$work" -c "$work/nginx.conf" 2>"$work/nginx.log" &
        origin=$!
        # Whoever else has the port does not have this file.
        while kill -0 "$origin" 2>/dev/null; do
            ! curl -sf "http://127.0.0.1:$port/paths" | cmp -s - "$work/tree/paths" || return 0
            sleep 0.1
        done
    done
    fail "nginx does not start"
}

echo "writing metadata of $paths paths"
"$target/examples/bench-catalog" "$work/tree" "$paths"
chmod 755 "$work"
probe=$(tail -n 1 "$work/tree/paths")
start_origin
{
    printf '[server]\nlisten = ["127.0.0.1:0"]\nadmin = "127.0.0.1:0"\nstate_dir = "%s"\n' "$work/state"
    for tree in "$work"/tree/deb* "$work"/tree/rpm*; do
        name=${tree##*/}
        units=$(cd "$tree" && printf '"%s", ' $(ls -d dists/* unit* 2>/dev/null | sed 's,^dists/,,'))
        printf '[[repo]]\nname = "%s"\ndistro = "generic-%s"\nupstream = ["http://127.0.0.1:%s/%s"]\npoll_secs = 1\n' \
            "$name" "${name%[0-9]}" "$port" "$name"
        printf 'suites = [%s]\n' "$units"
        [[ $name == rpm* ]] || printf 'components = ["main"]\narchitectures = ["all", "amd64", "arm64", "riscv64"]\n'
    done
} >"$work/serve.toml"

start "$work/first.log" >"$work/first.ms"
sleep 3 # the index files are written behind the requests
first_memory=$(memory VmRSS)
stop

start "$work/second.log" >"$work/second.ms"
restart_memory=$(memory VmRSS)
admin=$(field "$work/second.log" ready admin)

"$target/examples/bench-load" "$address" "$work/tree/paths" "$rate" "$idle_secs" >"$work/idle.json"
"$target/examples/bench-load" "$address" "$work/tree/paths" "$rate" "$busy_secs" >"$work/busy.json" &
load=$!
sleep 3
cp -R "$work/tree/next/deb0" "$work/tree/"
wait "$load"
grep -q '"message":"adopted"' "$work/second.log" || fail "no generation was adopted during the load"
catalog=$("$MANYHANDS" status --admin "http://$admin" | grep ^catalog) || fail "no status"
end_memory=$(memory VmRSS)
end_peak=$(memory VmHWM)

echo
"$target/examples/bench-parse"
echo "$catalog"
echo "first     $(cat "$work/first.ms") ms (every list read), $first_memory MiB resident afterwards"
echo "restart   $(cat "$work/second.ms") ms to the first right answer, $restart_memory MiB resident"
echo "adoption  $end_memory MiB resident afterwards, $end_peak MiB at the peak"
echo "latency   without adoption: $(cat "$work/idle.json")"
echo "latency   with adoption:    $(cat "$work/busy.json")"
