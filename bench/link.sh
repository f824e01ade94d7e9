#!/usr/bin/env bash
# Compares shoal-link with the bare QUIC library: one stream, memory to memory, alternating pairs,
# on loopback and, as root, between two network namespaces. Prints medians, ranges and the ratio.
# Usage: bench/link.sh [MIB] [PAIRS]. Exits 1 when a ratio is below 0.9.
set -euo pipefail
cd "$(dirname "$0")/.."

mib="${1:-2048}"
pairs="${2:-5}"
near="shoal-bench-a-$$"
far="shoal-bench-b-$$"
results="$(mktemp -d)"
clean() {
  rm -rf "$results"
  ip netns del "$near" 2>/dev/null || true
  ip netns del "$far" 2>/dev/null || true
}
trap clean EXIT

cargo build --quiet --release -p shoal-link --example throughput
program="${CARGO_TARGET_DIR:-target}/release/examples/throughput"

loopback_run() {
  "$program" "$1" "$mib"
}

namespace_run() {
  local served="$results/served" server
  ip netns exec "$far" "$program" "$1" serve 10.77.0.2:9999 >"$served" &
  server=$!
  until ip netns exec "$far" ss -lun | grep -q 9999; do :; done
  local sent
  sent="$(ip netns exec "$near" "$program" "$1" send 10.77.0.2:9999 "$mib")"
  wait "$server"
  echo "$sent $(cat "$served")" | awk '{ printf "%s %.2f\n", $1, $2 + $4 }'
}

compare() {
  local place="$1" run="$2" pair side
  for ((pair = 0; pair < pairs; pair++)); do
    for side in shoal noq; do
      "$run" "$side" >>"$results/$place-$side"
    done
  done
  for side in shoal noq; do
    sort -n "$results/$place-$side" | awk -v place="$place" -v side="$side" -v mib="$mib" '
      { rate[NR] = $1; cpu += $2 }
      END {
        printf "| %s | %s | %d | %d-%d | %.2f |\n", place, side,
          rate[int((NR + 1) / 2)], rate[1], rate[NR], cpu / NR / (mib * 1048576 / 1e9)
      }'
  done
  paste -d' ' <(sort -n "$results/$place-shoal") <(sort -n "$results/$place-noq") |
    awk -v place="$place" '
      { ours[NR] = $1; bare[NR] = $3 }
      END {
        middle = int((NR + 1) / 2); ratio = ours[middle] / bare[middle]
        printf "| %s | shoal / noq | %.2f | | |\n", place, ratio
        exit ratio < 0.9
      }'
}

echo "| where | side | MB/s, median of $pairs | range | CPU s/GB, both ends |"
echo "|---|---|---|---|---|"
failed=0
compare loopback loopback_run || failed=1
if [ "$(id -u)" -eq 0 ] && ip netns add "$near" 2>/dev/null && ip netns add "$far"; then
  ip link add veth-a netns "$near" mtu 1500 type veth peer name veth-b netns "$far" mtu 1500
  ip -n "$near" address add 10.77.0.1/24 dev veth-a
  ip -n "$far" address add 10.77.0.2/24 dev veth-b
  ip -n "$near" link set veth-a up
  ip -n "$far" link set veth-b up
  compare namespaces namespace_run || failed=1
else
  echo "namespaces skipped: needs root and ip netns"
fi
exit "$failed"
