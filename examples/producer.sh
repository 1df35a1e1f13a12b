#!/bin/sh
# A signal and its outcome, from redis-cli or valkey-cli. REDIS_CLI may name it with its options, as "redis-cli -s SOCKET".
set -eu
cli=${REDIS_CLI:-redis-cli}
then=$(date -u -d '-1 day' +%Y-%m-%dT%H:%M:%SZ 2>/dev/null || date -u -v-1d +%Y-%m-%dT%H:%M:%SZ)
now=$(date -u +%Y-%m-%dT%H:%M:%SZ)

$cli XADD signals.created '*' data \
  "{\"signal_id\": \"shell-1\", \"timestamp\": \"$then\", \"symbol\": \"ACME\", \"asset_class\": \"equity\", \"signal_type\": \"breakout\"}"
$cli XADD trades.closed '*' data \
  "{\"signal_id\": \"shell-1\", \"closed_at\": \"$now\", \"r_multiple\": -1.0, \"exit_reason\": \"stop\"}"
