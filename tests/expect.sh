# shellcheck shell=sh
# Sourced by app_*.sh: runs programs and compares what they say. At the end: exit $failed.
failed=0
tmp=$(mktemp -d)
out=$tmp/out err=$tmp/err
trap 'rm -rf "$tmp"' EXIT

# expect CODE "in stdout" "in stderr" PROGRAM ARGS...: an empty pattern means that nothing may be printed there, * means anything.
# Standard input is $in, or empty.
in=/dev/null
expect() {
    code=$1 in_out=$2 in_err=$3
    shift 3
    "$@" >"$out" 2>"$err" <"$in"
    rc=$?
    [ -z "${VK_INSTANCE_LAYERS:-}" ] || cat "$out" "$err" >&2 # test.sh looks for words of the validation layer
    [ $rc = "$code" ] || bad "exit code $rc, not $code" "$@"
    matches "$in_out" "$out" || bad "stdout lacks '$in_out'" "$@"
    matches "$in_err" "$err" || bad "stderr lacks '$in_err'" "$@"
}

# refuses_bytes "in stderr" PROGRAM ARGS...: of which one is no UTF-8. Windows hands arguments over in UTF-16, where none can be.
refuses_bytes() {
    [ -n "${PM_WINDOWS:-}" ] || expect 2 "" "$@"
}

matches() {
    case $1 in
    '') [ ! -s "$2" ] ;;
    '*') true ;;
    *) grep -qF -- "$1" "$2" ;;
    esac
}

# same "whole of stdout" PROGRAM ARGS...: success, and exactly these lines.
same() {
    text=$1
    shift
    expect 0 '*' '*' "$@"
    [ "$text" = "$(cat "$out")" ] || bad "stdout is not '$text'" "$@"
}

# golden CASE FIELD: an array of ids of $model's golden.json, as --print-ids writes it.
golden() {
    awk -v want="$1" -v field="\"$2\": [" '
        /^   "messages": / { n++ }
        n == want + 1 && index($0, "   " field) == 1 { inside = 1; next }
        inside && /\]/ { exit }
        inside { gsub(/[ ,]/, ""); printf "%s%s", separator, $0; separator = " " }' "$model/golden.json"
}

bad() {
    failed=1
    echo "FAILED: $1"
    shift
    echo "  of: $*"
    head -n 20 "$out" "$err" | sed 's/^/  | /'
}
