# lib.sh - for the tests that run a real daemon against real clients. Sourced.
#
#   start_target ARGS...   runs `ringtgt ARGS --portal 127.0.0.1:0`, waits until it is ready; sets PID, URL
#                          (of LUN 0), PORTAL, IQN and LOG
#   stop_target [SIG]      ends it by SIGTERM (or SIG) and checks that its exit status is 0
# Every process is ended by pid, every file is in $TMP, which goes when the script ends.
set -eEuo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
RINGTGT=${RINGTGT:-$ROOT/target/release/ringtgt}
TMP=$(mktemp -d)
PID=
trap 'echo "FAIL: $(basename "$0") line $LINENO: $BASH_COMMAND" >&2; [ -z "${LOG:-}" ] || tail -n 20 "$LOG" >&2' ERR
trap '[ -z "$PID" ] || kill -KILL "$PID" 2>/dev/null; rm -rf "$TMP"' EXIT

step() { echo "--- $*"; }
die() { echo "FAIL: $*" >&2; [ -z "${LOG:-}" ] || tail -n 20 "$LOG" >&2; exit 1; }
refused() { if "$@" >"$TMP/refused.out" 2>&1; then cat "$TMP/refused.out" >&2; die "should have failed: $*"; fi; }
wait_for() { # SECONDS CMD... : until CMD succeeds
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || die "timed out: $*"; sleep 0.05; done
}

start_target() {
  LOG=$TMP/target.log
  : >"$LOG"   # or the last run's "ready" is taken for this one's
  "${WRAP[@]}" "$RINGTGT" "$@" --portal "${LISTEN:-127.0.0.1:0}" >"$LOG" 2>&1 &
  PID=$!
  wait_for 20 eval "grep -q '^ready' '$LOG' || ! kill -0 $PID"
  grep -q '^ready' "$LOG" || die "the target ended before it was ready"
  URL=$(grep -m 1 -o 'iscsi://[^ ]*/0' "$LOG")
  [ -n "$URL" ] || die "no URL in what serve printed"
  PORTAL=${URL#iscsi://}; IQN=${PORTAL#*/}; IQN=${IQN%/*}; PORTAL=${PORTAL%%/*}
}
WRAP=()

stop_target() {
  kill -"${1:-TERM}" "$PID"
  local rc=0
  wait "$PID" || rc=$?
  PID=
  [ "$rc" = 0 ] || die "exit status $rc after SIG${1:-TERM}"
}
