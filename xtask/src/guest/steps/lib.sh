# What the steps have in common. A step fails with its first command that does; one that ends by `skip` was not possible.
# "figure: …" is shown beside its verdict.
set -euo pipefail
vip=192.0.2.10
good=/etc/lbd/edge.toml
scratch=$(mktemp -d)
trap 'code=$?; set +e; undo; rm -rf "$scratch"; exit $code' EXIT
undo() { :; }

fail() { echo "$*" >&2; exit 1; }
skip() { echo "skipped: $*"; exit 77; }

# wait_for SECONDS COMMAND…: until it succeeds.
wait_for() {
    local until=$((SECONDS + $1)) limit=$1
    shift
    until "$@" > /dev/null 2>&1; do
        [ $SECONDS -lt $until ] || fail "not within $limit s: $*"
        sleep 0.2
    done
}

# A request from the client; who answered.
request() { nsenter --net=/run/netns/client curl -sSf -m 15 "http://$vip/"; }

# Requests, one after the other, until `end_traffic`, which fails if one did, or there were none; or until the step has failed.
begin_traffic() {
    while [ -d "$scratch" ] && [ ! -e "$scratch/enough" ]; do
        if request; then echo answered; else echo failed; fi
        sleep 0.1
    done > "$scratch/traffic" 2>&1 &
}
end_traffic() {
    touch "$scratch/enough"
    wait
    local answered failed
    answered=$(grep -c '^answered' "$scratch/traffic" || :)
    failed=$(grep -c '^failed' "$scratch/traffic" || :)
    echo "figure: $answered requests answered meanwhile, $failed not"
    [ "$failed" = 0 ] && [ "$answered" -gt 0 ] || { cat "$scratch/traffic"; fail "requests failed"; }
}

# property NAME [UNIT]
property() { systemctl show --property="$1" --value "${2:-lbd}"; }
active() { [ "$(property ActiveState)" = active ]; }
# started_again PID: another process of the unit's answers than this one.
started_again() { [ "$(property MainPID)" != "$1" ] && [ "$(property MainPID)" != 0 ] && lbctl status; }
# The configuration that is in force and served.
serves() { lbctl status | grep '3 of 3 backends serve' > /dev/null; }
