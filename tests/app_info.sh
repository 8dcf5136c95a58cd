#!/bin/sh
# app_info.sh PUMICE: `pumice info` and `pumice plan` from outside: what they tell of the bundled model and of made ones, and what
# they say to bad input.
set -u
pumice=$1
. "${0%/*}/expect.sh"
model=${0%/*}/data/tiny-qwen3
yarn=${0%/*}/data/checkpoints/qwen3-yarn

# told "line": a line of the last run begins with these words, however many blanks stand between them.
told() {
    tr -s ' ' <"$out" | sed 's/^ //' | grep -qF -- "$1" || bad "stdout does not tell '$1'" "the last run"
}

# number NAME: the first number of that name in the JSON of the last run.
number() {
    sed -n "s/^[[:space:]]*\"$1\":[[:space:]]*\([0-9.e+-]*\),*$/\1/p" "$out" | head -n 1
}

# model_with NAME: a copy of the bundled model in links, to be spoilt.
model_with() {
    mkdir "$tmp/$1"
    for file in "$model"/*; do
        ln -s "$(cd "$model" && pwd)/${file##*/}" "$tmp/$1/"
    done
}

# one_screen COMMAND: its help.
one_screen() {
    expect 0 "--json" "" "$pumice" "$1" --help
    [ "$(wc -l <"$out")" -le 24 ] && [ "$(awk 'length > 80' "$out" | wc -l)" = 0 ] || bad "help is larger than a screen" "$1 --help"
}

# ---- info -------------------------------------------------------------------------------------------------------------------

# safetensors: eight bytes of header size, the header, the tensors: their bytes are what is left of the file.
size=$(wc -c <"$model/model.safetensors")
header=$(od -An -tu8 -N8 "$model/model.safetensors" | tr -d ' ')
data=$((size - 8 - header))

expect 0 '*' "" "$pumice" info "$model"
told "architecture qwen3"
told "layers 4"
told "width 256, feed-forward 768"
told "heads 4 of 128, 2 for keys and values, normed"
told "context 2048"
told "rope theta 1e+06"
told "vocabulary 1280, the head is the embedding"
told "tokenizer byte-level BPE"
told "ends with 1256 <|im_end|>"
told "chat template Qwen3"
told "sampling temperature 0.6, top-k 20, top-p 0.95"
told "token_embd.weight BF16 1280 x 256 640.0 KiB"
told "layers 0 to 3: 4 x"
told "attn_q.weight BF16 512 x 256 256.0 KiB"
[ "$(grep -c 'attn_q.weight' "$out")" = 1 ] || bad "a layer's tensors are told more than once" "info"
expect 0 '*' "" "$pumice" info "$model" --tensors
[ "$(grep -c 'blk\..*attn_q.weight' "$out")" = 4 ] || bad "not every tensor is told" "info --tensors"

# Experts that the file has one by one are one line for each kind.
experts=${0%/*}/data/checkpoints/qwen3moe
expect 0 '*' "" "$pumice" info "$experts"
told "experts 16 of 64, 4 for a token, normed"
told "ffn_up.{0..15}.weight BF16 16 x 64 x 128 256.0 KiB"
told "ffn_down.{0..15}.weight BF16 16 x 128 x 64 256.0 KiB"
[ "$(grep -c 'ffn_gate\.' "$out")" = 1 ] || bad "experts are told one by one" "info"
expect 0 '*' "" "$pumice" info "$experts" --tensors
[ "$(grep -c 'blk\..*ffn_gate\.[0-9]*\.weight' "$out")" = 32 ] || bad "not every expert is told" "info --tensors"

expect 0 '*' "" "$pumice" info "$model" --json
[ "$(number bytes)" = $data ] || bad "the tensors have $data bytes" "info --json"
[ "$(number parameters)" = $((data / 2)) ] || bad "there are $((data / 2)) bfloat16 parameters" "info --json"
[ "$(number temperature) $(number norm_eps)" = "0.6 1e-06" ] || bad "floats have other digits" "info --json"
[ "$(number n_tensors)" = "$(grep -c '"name":' "$out")" ] || bad "not as many tensors as are counted" "info --json"
[ "$(awk '/"tensors":/ { inside = 1 } inside && /"bytes":/ { gsub(/[^0-9]/, ""); sum += $0 } END { print sum }' "$out")" = $data ] ||
    bad "the tensors' bytes do not add up to $data" "info --json"
expect 0 '*' "" "$pumice" info "$yarn"
told "rope theta"
told "yarn, factor 4"
told "tokenizer none"
told "chat template none"

# No driver is asked.
VK_DRIVER_FILES=/nonexistent VK_ICD_FILENAMES=/nonexistent expect 0 "architecture" "" "$pumice" info "$model"

one_screen info
expect 2 "" "MODEL is missing" "$pumice" info
expect 2 "" "no option --nonsense" "$pumice" info "$model" --nonsense
expect 2 "" "one argument too many" "$pumice" info "$model" "$model"
expect 1 "" "/missing: No such file" "$pumice" info "$tmp/missing"
expect 1 "" "/missing: No such file" "$pumice" info "$tmp/missing" --json
expect 1 "" "neither a GGUF file nor safetensors" "$pumice" info "$0"
expect 1 "" "config.json" "$pumice" info "$tmp"
model_with broken
rm "$tmp/broken/model.safetensors"
head -c 4000000 "$model/model.safetensors" >"$tmp/broken/model.safetensors"
expect 1 "" "model.safetensors" "$pumice" info "$tmp/broken"
expect 1 "" "truncated?" "$pumice" info "${0%/*}/data/tiny-qwen3-F16.head" # the first 43200 bytes of a GGUF file
if [ -w /dev/full ]; then
    "$pumice" info "$model" --json >/dev/full 2>"$err"
    [ $? = 1 ] && grep -q "could not be written" "$err" || bad "a full disk went unnoticed" "info >/dev/full"
fi

# ---- plan -------------------------------------------------------------------------------------------------------------------

one_screen plan
expect 2 "" "MODEL is missing" "$pumice" plan
expect 2 "" "wanted a whole number from 1" "$pumice" plan "$model" --ctx 0
expect 2 "" "wanted f16 or f32 or fast" "$pumice" plan "$model" --precision f64
VK_DRIVER_FILES=/nonexistent VK_ICD_FILENAMES=/nonexistent expect 3 "" "no Vulkan driver found" "$pumice" plan "$model"
VK_DRIVER_FILES=/nonexistent VK_ICD_FILENAMES=/nonexistent expect 3 "" "no Vulkan driver found" "$pumice" plan "$model" --json

"$pumice" devices >"$out" 2>"$err"
[ $? != 3 ] || { [ $failed = 0 ] && cat "$err" && exit 77; }
n=$(wc -l <"$out")
expect 1 "" "/missing: No such file" "$pumice" plan "$tmp/missing"
expect 1 "" "model.safetensors" "$pumice" plan "$tmp/broken"

expect 0 '*' '*' "$pumice" plan "$model"
told "KV cache in f16: 4.0 KiB a position"
told "a context of 2048 fits"
told "KV cache 8.0 MiB"
told "the model was made for 2048"
[ "$(grep -c '^ *weights ' "$out")" = "$n" ] || bad "not a plan for each of $n devices" "plan"
expect 0 '*' '*' "$pumice" plan "$model" --ctx 100 --precision f32
told "KV cache in f32: 8.0 KiB a position"
told "KV cache 1.0 MiB" # 128 positions: whole pages

# What `run` says it took.
same_as_run() {
    "$pumice" plan "$model" --json "$@" >"$out" 2>"$err" || bad "no success" "plan $*"
    weights=$(number weight_bytes) session=$(number session_bytes)
    "$pumice" run "$model" -p hi -n 1 -v "$@" >"$tmp/run.out" 2>"$err" || bad "no success" "run $*"
    want=$(awk -v w="$weights" -v s="$session" 'BEGIN { printf "%.1f %.1f", w / 1048576, s / 1048576 }')
    got="$(sed -n 's/.*: \([0-9.]*\) MiB of weights.*/\1/p' "$err") $(sed -n 's/.*: \([0-9.]*\) MiB of cache.*/\1/p' "$err")"
    [ "$want" = "$got" ] || bad "planned '$want' MiB, run took '$got'" "plan $*"
}
same_as_run --ctx 64
same_as_run --ctx 2000 --precision f32
same_as_run --ctx 2000 --kv q8_0

expect 0 '*' '*' "$pumice" plan "$model" --ctx 16777216 --precision f32
told "a context of 16777216 does not fit"
told "the longest context that fits is"
exit $failed
