#!/bin/sh
# app_perplexity.sh PUMICE: the running values and the end of `pumice perplexity` with the bundled model, as llama-perplexity (build
# 11669, of Debian, on a CPU) told them of the same weights as GGUF F16 and the same text.
set -u
pumice=$1
. "${0%/*}/expect.sh"
model=${0%/*}/data/tiny-qwen3
story=${0%/*}/data/perplexity.txt

"$pumice" devices >"$out" 2>"$err"
[ $? != 3 ] || { cat "$err" && exit 77; }

# near "numbers": those of stdout, in order, are these within half a percent.
near() {
    tr -c '0-9.\n' ' ' <"$out" | tr -s ' \n' ' ' | sed 's/^ //;s/ $//' | awk -v want="$1" '
        { n = split(want, w, " "); if (n != NF) exit 1 }
        { for (i = 1; i <= n; i++) if ($i / w[i] > 1.005 || w[i] / $i > 1.005) exit 1 }' || bad "not the numbers $1" "the last run"
}

expect 0 '[1]' '' "$pumice" perplexity "$model" "$story" --ctx 64
near "1 26.5351 2 45.9239 3 37.3463 4 18.6644 5 31.6650 6 26.1675 7 22.9865 8 27.9079 27.9079 10.77865"
grep -qE '^PPL = 27\.[0-9]{4} \+/- 10\.[0-9]{5}$' "$out" || bad "no last line" "--ctx 64"
cp "$out" "$tmp/once"
in=$story
same "$(cat "$tmp/once")" "$pumice" perplexity "$model" - -c 64
in=/dev/null

# A window that moves by 128: the 128 last of its 256 count. The peer does not tell the uncertainty here.
expect 0 'PPL = 24' '' "$pumice" perplexity "$model" "$story" -c 256 --stride 128 --precision f32
sed -i 's, +/-.*,,' "$out"
near "1 12.6407 2 18.2883 3 24.3125 24.3125"

# A model that wants a bos before the text gets it at the beginning of every window too.
mkdir "$tmp/bos"
cp "$model"/*.json "$tmp/bos"
ln -s "$(cd "$model" && pwd)/model.safetensors" "$tmp/bos"
sed -i 's/"add_bos_token": false/"add_bos_token": true/' "$tmp/bos/tokenizer_config.json"
expect 0 '[8]' '' "$pumice" perplexity "$tmp/bos" "$story" -c 64
near "1 23.5589 2 40.6721 3 34.4526 4 17.5655 5 30.1762 6 25.1278 7 22.1333 8 26.8632 26.8632 10.36451"

expect 2 "" "has 543 tokens, and windows of 512 need at least 1024" "$pumice" perplexity "$model" "$story"
expect 2 "" "--stride 64: less than the 64 tokens" "$pumice" perplexity "$model" "$story" -c 64 --stride 64
expect 2 "" "--ctx 3: wanted" "$pumice" perplexity "$model" "$story" --ctx 3
expect 2 "" "FILE is missing" "$pumice" perplexity "$model"
expect 1 "" "/missing: No such file" "$pumice" perplexity "$model" "$tmp/missing"
printf 'a\377b' >"$tmp/bytes"
expect 2 "" "not UTF-8" "$pumice" perplexity "$model" "$tmp/bytes"
expect 1 "" "no tokenizer" "$pumice" perplexity "${0%/*}/data/checkpoints/qwen3-gqa5" "$story"
expect 0 "--stride" "" "$pumice" perplexity --help
"$pumice" perplexity "$model" "$story" -c 8 2>"$err" | head -c 3 >"$out"
[ ! -s "$err" ] || bad "a reader that went away is no failure" "| head -c 3"
exit $failed
