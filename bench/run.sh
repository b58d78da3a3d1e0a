#!/usr/bin/env bash
# Redirects per second of manyhands and of nginx `return 302`, in turns on this machine, then what a decision of
# the policy costs, then metadata of a mirror that changes, beside apt-cacher-ng; see README.md.
# Environment: ROUNDS (3), SECONDS_EACH (5), ROUNDS_EACH (30), MANYHANDS (the binary; without it a release build is made),
# BENCH=short (a minute with a debug build: shows that everything here works; the figures mean nothing).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
profile=release
if [[ ${BENCH:-} == short ]]; then
    profile=dev
    : "${ROUNDS:=1}" "${SECONDS_EACH:=1}" "${ROUNDS_EACH:=3}"
    export ROUNDS_EACH
fi
rounds=${ROUNDS:-3}
seconds_each=${SECONDS_EACH:-5}
tree=$root/test-repos/t1/alder
volunteer_address=127.0.0.2
# What the server answers itself while it is not busy; the measured path must be a redirect.
smallest=$((32 * 1024))
# apt's: a client that is known never to ask again for a failed download.
agent='Debian APT-HTTP/1.3 (2.6.1)'

fail() {
    echo "bench: $*" >&2
    exit 1
}

PATH=$PATH:/usr/sbin:/sbin
for tool in nginx wrk curl apt-cacher-ng dnf gpg; do
    command -v "$tool" >/dev/null || fail "$tool is missing: run tests/setup.sh"
done
[[ -d $tree/dists ]] || fail "there is no repository in $tree"
if [[ -z ${MANYHANDS:-} ]]; then
    cargo build --profile "$profile" --locked --manifest-path "$root/Cargo.toml"
    MANYHANDS=${CARGO_TARGET_DIR:-$root/target}/${profile/dev/debug}/manyhands
fi

work=$(mktemp -d)
pids=()
clean_up() {
    local status=$? pid
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    for pid in "${pids[@]}"; do
        wait "$pid" 2>/dev/null || true
    done
    if [[ $status != 0 ]]; then
        tail -n 20 "$work"/*.log >&2 || true
    fi
    rm -rf "$work"
}
trap clean_up EXIT

# Repeats a command until it succeeds: until_true SECONDS WHAT COMMAND...
until_true() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [[ $SECONDS -lt $end ]] || fail "waited in vain for $what"
        sleep 0.1
    done
}

# The value of a field in the "ready" line of a JSON log.
ready_field() {
    sed -n '/"message": *"ready"/s/.*"'"$2"'": *"\([^"]*\)".*/\1/p' "$1" | head -n 1
}

is_ready() {
    kill -0 "$1" 2>/dev/null || fail "$2 ended early"
    [[ -n $(ready_field "$work/$2.log" listen) ]]
}

unpack() {
    case $1 in
    *.gz) gzip -dc "$1" ;;
    *.xz) xz -dc "$1" ;;
    *.zst) zstd -qdc "$1" ;;
    *) cat "$1" ;;
    esac
}

# ---------------------------------------------------------------- what to ask for

index=$(find "$tree"/dists/*/main/binary-amd64 -maxdepth 1 -name 'Packages*' | sort | head -n 1)
[[ -n $index ]] || fail "there is no Packages file in $tree"
path=$(unpack "$index" | awk -v smallest="$smallest" '
    /^Filename: / { name = $2 }
    /^Size: / { size = $2 }
    /^$/ { if (!found && size >= smallest && name ~ /^[a-zA-Z0-9\/._-]+$/) { print name; found = 1 } name = ""; size = 0 }
    END { if (!found && size >= smallest) print name }')
[[ -n $path ]] || fail "no package of $smallest bytes or more in $index"

# ---------------------------------------------------------------- manyhands

cat >"$work/serve.toml" <<EOF
[server]
listen = ["127.0.0.1:0"]
admin = "127.0.0.1:0"
state_dir = "$work/server"

[[repo]]
name = "alder"
distro = "generic-deb"
tree = "$tree"
suites = [$(for suite in "$tree"/dists/*/; do printf '"%s", ' "$(basename "$suite")"; done)]
EOF
mkdir -p "$work/server" "$work/store"
"$MANYHANDS" token issue --config "$work/serve.toml" >"$work/token"

# One thread, like nginx's one worker: the result is redirects per second and core.
TOKIO_WORKER_THREADS=1 "$MANYHANDS" serve --config "$work/serve.toml" --log-format json 2>"$work/serve.log" &
serve=$!
pids+=("$serve")
until_true 60 "the server" is_ready "$serve" serve
server=$(ready_field "$work/serve.log" listen)
admin=$(ready_field "$work/serve.log" admin)

# The most that a server believes, so that the number of promised downloads does not make the volunteer look full.
"$MANYHANDS" volunteer --server "http://$server" --store "$work/store" --listen "$volunteer_address:0" \
    --donate 100Gbit/s --token-file "$work/token" --log-format json 2>"$work/volunteer.log" &
volunteer=$!
pids+=("$volunteer")
until_true 60 "the volunteer" is_ready "$volunteer" volunteer

url=http://$server/alder/$path
location=
redirected() {
    curl -sS -A "$agent" -o "$work/package" "$url" || fail "GET $url"
    location=$(curl -sS -A "$agent" -I "$url" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
    [[ $location == http://$volunteer_address:* ]]
}
until_true 60 "a redirect of $url" redirected

# The counter of redirects in the status.
redirects() {
    "$MANYHANDS" status --admin "http://$admin" --json | tr -d ' \n' | sed -n 's/.*"redirects":\([0-9]*\).*/\1/p'
}

# ---------------------------------------------------------------- nginx, with the very same Location

nginx_answers() {
    kill -0 "$nginx" 2>/dev/null || return 0
    curl -s -o /dev/null "http://127.0.0.1:$port/"
}
for _ in 1 2 3 4 5; do
    port=$((20000 + RANDOM % 10000))
    cat >"$work/nginx.conf" <<EOF
daemon off;
worker_processes 1;
pid $work/nginx.pid;
error_log stderr;
events { worker_connections 1024; }
http {
    access_log off;
    keepalive_requests 100000000;
    client_body_temp_path $work/nginx-body;
    proxy_temp_path $work/nginx-proxy;
    fastcgi_temp_path $work/nginx-fastcgi;
    uwsgi_temp_path $work/nginx-uwsgi;
    scgi_temp_path $work/nginx-scgi;
    server {
        listen 127.0.0.1:$port;
        location / { return 302 "$location"; }
    }
}
EOF
    nginx -e stderr -p "$work" -c "$work/nginx.conf" 2>"$work/nginx.log" &
    nginx=$!
    pids+=("$nginx")
    until_true 10 nginx nginx_answers
    # Gone already: the port was taken.
    if kill -0 "$nginx" 2>/dev/null; then break; fi
done
kill -0 "$nginx" 2>/dev/null || fail "nginx does not start"
nginx_worker=$(tr ' ' '\n' <"/proc/$nginx/task/$nginx/children" | head -n 1)

# ---------------------------------------------------------------- the measurement

# Processor time of a process so far, in clock ticks.
ticks() {
    sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'
}

# One run: measure NAME PID URL; adds "requests/s requests/processor-second" to a file.
measure() {
    local name=$1 pid=$2 before after
    before=$(ticks "$pid")
    wrk -t1 -c64 -d"${seconds_each}s" -H "User-Agent: $agent" "$3" >"$work/wrk.log"
    after=$(ticks "$pid")
    if grep -E 'Non-2xx|Socket errors' "$work/wrk.log" >&2; then
        fail "wrk saw errors from $name"
    fi
    requests=$(awk '/requests in/ { print $1 }' "$work/wrk.log")
    awk -v used=$((after - before)) -v hz="$(getconf CLK_TCK)" -v requests="$requests" \
        '/^Requests\/sec:/ { printf "%.0f %.0f\n", $2, used ? requests * hz / used : 0 }' \
        "$work/wrk.log" >>"$work/$name.rounds"
}

median() {
    cut -d' ' -f"$2" "$work/$1.rounds" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

for ((round = 1; round <= rounds; round++)); do
    echo "bench: round $round of $rounds" >&2
    measure nginx "$nginx_worker" "http://127.0.0.1:$port/alder/$path"
    seen=$(redirects)
    measure manyhands "$serve" "$url"
    seen=$(($(redirects) - seen))
    # Answers in flight when wrk stops are counted by one side only.
    if ((seen * 1000 < requests * 999)); then
        fail "only $seen of $requests answers of manyhands were redirects: this measures something else"
    fi
done

processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
echo "machine: ${processor:-$(uname -m)}, $(nproc) cores, Linux $(uname -r)"
echo "versions: $("$MANYHANDS" --version), $(nginx -v 2>&1 | sed 's/.*: //'), $(wrk -v 2>&1 | awk 'NR == 1 { print $1, $2 }')"
echo "load: wrk -t1 -c64 -d${seconds_each}s on one path, median of $rounds rounds in turns"
echo
awk -v n="$(median nginx 1)" -v m="$(median manyhands 1)" -v nc="$(median nginx 2)" -v mc="$(median manyhands 2)" '
    BEGIN {
        printf "%-22s %12s %22s\n", "redirects", "per second", "per processor second"
        printf "%-22s %12d %22d\n", "nginx return 302", n, nc
        printf "%-22s %12d %22d\n", "manyhands serve", m, mc
        printf "%-22s %12.2f %22.2f\n", "ratio", m / n, nc ? mc / nc : 0
    }'

# ---------------------------------------------------------------- decisions of the policy

echo
cargo bench --quiet --locked --profile "${profile/release/bench}" --manifest-path "$root/Cargo.toml" --bench decide

# ---------------------------------------------------------------- metadata of a mirror that changes

echo
echo "versions: $(dpkg-query -W -f '${Package} ${Version}' apt-cacher-ng), $(apt-get --version | head -n 1), dnf $(dnf --version | head -n 1)"
cargo bench --quiet --locked --profile "${profile/release/bench}" --manifest-path "$root/Cargo.toml" --bench coherence
