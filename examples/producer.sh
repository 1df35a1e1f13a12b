#!/bin/sh
# A signal and its outcome, from redis-cli or valkey-cli. REDIS_CLI names it with its options; without it, it is the
# server of a `refinery up` that was started in this directory.
set -eu
cli=${REDIS_CLI:-redis-cli -s var/valkey/valkey.sock}
at() { date -u -d "@$1" +%Y-%m-%dT%H:%M:%SZ 2>/dev/null || date -u -r "$1" +%Y-%m-%dT%H:%M:%SZ; }
now=$(date -u +%s)
then=$((now - 86400))

# Bars, or none where REFINERY_MARKET_DATA_DIR has them.
times= closes= highs= lows= volumes= bar=0
while [ $bar -lt 60 ]; do
  comma=${times:+, }
  times="$times$comma\"$(at $((then - (59 - bar) * 86400)))\""
  closes="$closes$comma$((100 + bar))" highs="$highs$comma$((101 + bar))" lows="$lows$comma$((99 + bar))"
  volumes="$volumes${comma}1000000" bar=$((bar + 1))
done
bars="{\"timestamp\": [$times], \"open\": [$closes], \"high\": [$highs], \"low\": [$lows], \"close\": [$closes], \"volume\": [$volumes]}"

$cli XADD signals.created '*' data \
  "{\"signal_id\": \"shell-1\", \"timestamp\": \"$(at $then)\", \"symbol\": \"ACME\", \"asset_class\": \"equity\", \"signal_type\": \"breakout\", \"bars\": $bars}"
$cli XADD trades.closed '*' data \
  "{\"signal_id\": \"shell-1\", \"closed_at\": \"$(at "$now")\", \"r_multiple\": -1.0, \"exit_reason\": \"stop\"}"
