#!/bin/sh
# fuzz.sh BUILD SECONDS [TARGET]: runs each fuzz target of a build folder (or the one) that long, one a core, on the seeds in
# tests/fuzz/seeds/ and on what earlier runs found. Ends with "N passed, N failed, N skipped".
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
build=$1 seconds=$2 target=${3:-}

fuzz_one() {
    name=${target##*/fuzz_}
    work=$build/fuzz/$name
    mkdir -p "$work/corpus"
    set -- "$work/corpus"
    [ ! -d "$root/tests/fuzz/seeds/$name" ] || set -- "$@" "$root/tests/fuzz/seeds/$name"
    if "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -artifact_prefix="$work/" -print_final_stats=1 "$@" \
        >"$work/log" 2>&1 </dev/null; then
        echo "    $name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$work/log") executions"
    else
        echo "    FAILED: $name ($work)"
        grep -m1 -A12 -E 'ERROR:|runtime error:' "$work/log" || tail -n 12 "$work/log"
    fi
}

if [ -n "$target" ]; then
    fuzz_one
    exit
fi
find "$build/tests" -maxdepth 1 -name 'fuzz_*' -type f -perm -u+x | sort |
    xargs -r -P "$(nproc)" -I{} "$0" "$build" "$seconds" {} | tee "$build/fuzz.txt"
echo "$(grep -c ' executions$' "$build/fuzz.txt") passed, $(grep -c '^    FAILED: ' "$build/fuzz.txt") failed, 0 skipped"
