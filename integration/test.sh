#!/usr/bin/env bash
# Runs all tests of integration/. The package ./integration has half of them, so it runs in two parts. The parts and the
# other packages run beside each other, since tests wait for homeservers more than they work.
# Arguments: packages below integration/ to leave out.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
left_out=$(IFS='|' && echo "$*")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'kill 0' INT TERM # a shell's background jobs do not hear of Ctrl-C

run() { # tests packages, and keeps the log. Its first argument names the log.
  "$go" test -count=1 -timeout 30m "${@:2}" 2>&1 | tee "$work/$1.log"
}
"$go" build -o "$work/" ./cmd/dendrite-mimi # once for all packages
export DENDRITE_MIMI=$work/dendrite-mimi
others=$("$go" list ./integration/... | tail -n +2 | grep -vxE "[^ ]*/integration/(${left_out:-none})")
half=$("$go" test -list '^Test' ./integration | grep '^Test' | awk 'NR % 2' | paste -sd '|')
run half -run "^($half)\$" ./integration &
lanes=($!)
run rest -skip "^($half)\$" ./integration &
lanes+=($!)
run others $others &
lanes+=($!)

failed=0
for lane in "${lanes[@]}"; do
  wait "$lane" || failed=1
done
if [ "$failed" != 0 ]; then
  echo "The failures once more, without the logs of servers:"
  grep -hE '^ *(--- FAIL|[a-z0-9_]+_test\.go:[0-9]+:|panic:|FAIL)' "$work"/*.log
  exit 1
fi
