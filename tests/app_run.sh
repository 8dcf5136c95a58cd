#!/bin/sh
# shellcheck disable=SC2086
# app_run.sh PUMICE: `pumice run` with the bundled model, from outside: answers that others computed, every option, every way to
# stop, and what it says to bad input.
set -u
pumice=$1
. "${0%/*}/expect.sh"
model=${0%/*}/data/tiny-qwen3
strawberry="How many r's in strawberry?"

"$pumice" devices >"$out" 2>"$err"
[ $? != 3 ] || { cat "$err" && exit 77; }

# stats "in the statistics": of the last run.
stats() {
    grep -qE -- "$1" "$err" || bad "the statistics lack '$1'" "the last run"
}

# model_with NAME: a copy of the bundled model in links, to be spoilt.
model_with() {
    mkdir "$tmp/$1"
    for file in "$model"/*; do
        ln -s "$(cd "$model" && pwd)/${file##*/}" "$tmp/$1/"
    done
}

# ---- answers of transformers ----------------------------------------------------------------------------------------------

same "<think>
s t r=1 a w b e r=2 r=3 y . So 3.
</think>

There are 3 r's in strawberry." "$pumice" run "$model" -p "$strawberry" --temp 0
stats '^prompt 15 tokens, [0-9.]+ tokens/s \| answer 36 tokens, [0-9.]+ tokens/s \| end of turn <\|im_end\|> \| .'
same "<think>
This is a simple question.
</think>

你好！有什么可以帮你的吗？" "$pumice" run "$model" -p 你好 --temp 0
same "The capital of France is Paris." "$pumice" run "$model" -p "What is the capital of France?" --temp 0 --think off
same "$(golden 1 greedy)" "$pumice" run "$model" -p "$strawberry" --temp 0 --print-ids
same "$(golden 4 greedy)" "$pumice" run "$model" --ids "$(golden 4 ids | tr ' ' ,)" --temp 0 --print-ids --precision f32
golden 4 ids >"$tmp/ids"
same "<think>
v u l k a n -> n a k l u v
</think>

nakluv" "$pumice" run "$model" --ids "$tmp/ids" --temp 0

# transformers' ids of a model that was cast to bfloat16, its frequencies included; case 3 has 64 ids.
yarn=${0%/*}/data/checkpoints/qwen3-yarn
case3=$(tr '{' '\n' <"$yarn/golden.json" | sed -n 5p | tr -d ' ')
ids3=$(echo "$case3" | sed 's/.*"ids":\[\([0-9,]*\)\].*/\1/')
same "$(echo "$case3" | sed 's/.*"greedy":\[\([0-9,]*\)\].*/\1/' | tr , ' ')" \
    "$pumice" run "$yarn" --rope-bf16 --precision f32 --ids "$ids3" -n 24 --temp 0 --print-ids

# ---- long contexts -------------------------------------------------------------------------------------------------------

# The same model without a word of YaRN in its file, asked for on the command line: static, and as the conversation needs it.
mkdir "$tmp/plain"
ln -s "$(cd "$yarn" && pwd)/model.safetensors" "$tmp/plain/"
tr -d '\n' <"$yarn/config.json" | sed 's/"rope_parameters": {[^}]*}/"rope_theta": 1000000.0/' >"$tmp/plain/config.json"
greedy3=$(echo "$case3" | sed 's/.*"greedy":\[\([0-9,]*\)\].*/\1/' | tr , ' ')
case3_with="--rope-bf16 --precision f32 -n 24 --temp 0 --print-ids"
same "$greedy3" "$pumice" run "$tmp/plain" $case3_with --ids "$ids3" --rope-scaling yarn --rope-scale 4 --yarn-orig-ctx 64
same "$greedy3" "$pumice" run "$tmp/plain" $case3_with --ids "$ids3" --rope-scale 4 --yarn-orig-ctx 64
[ ! -s "$err" ] || ! grep -q warning "$err" || bad "a warning" "the last run"
expect 0 '*' "taken is yarn by 2" "$pumice" run "$yarn" --ids 1 -n 1 --rope-scale 2
expect 0 '*' "does not say the context that it was trained on" "$pumice" run "$tmp/plain" --ids 1 -n 1 --rope-scale 2
scaled() {
    expect 0 '*' "YaRN by $1 " "$pumice" run "$tmp/plain" -v --ids "$ids3" --rope-scale auto --yarn-orig-ctx "$2" -n 24 --temp 0 --print-ids
}
scaled 1 88 # 64 of prompt and 24 of answer
scaled 2 44
scaled 4 43
expect 0 '*' "the model was made for 256: far positions may make no sense; --rope-scale auto" "$pumice" run "$tmp/plain" --ids 1 -n 1 -c 300
expect 0 '*' "the model was made for 256: far positions may make no sense" "$pumice" run "$yarn" --ids 1 -n 1 -c 300
expect 2 "" "goes without --rope-scale" "$pumice" run "$yarn" --ids 1 --rope-scaling none --rope-scale 4
expect 2 "" "goes without --rope-scale" "$pumice" run "$yarn" --ids 1 --rope-scaling none --yarn-orig-ctx 64
expect 2 "" "go without --rope-scaling linear" "$pumice" run "$yarn" --ids 1 --rope-scaling linear --rope-scale auto
expect 2 "" "by how much?" "$pumice" run "$yarn" --ids 1 --rope-scaling yarn
expect 2 "" "goes with --rope-scale" "$pumice" run "$yarn" --ids 1 --yarn-orig-ctx 64
expect 2 "" "wanted a number from 1 to 1000, or auto" "$pumice" run "$yarn" --ids 1 --rope-scale 0.5
expect 2 "" "wanted a number from 1 to 1000, or auto" "$pumice" run "$yarn" --ids 1 --rope-scale 4x

# A cache in Q8_0: the bundled model says the same.
same "The capital of France is Paris." "$pumice" run "$model" -p "What is the capital of France?" --temp 0 --think off --kv q8_0
expect 2 "" "wanted auto or f16 or f32 or q8_0" "$pumice" run "$model" -p hi --kv q4_0

# ---- where the prompt comes from --------------------------------------------------------------------------------------------

ids=$(golden 1 greedy | cut -d ' ' -f -8)
short="--temp 0 -n 8 --print-ids" # software GPUs are slow
echo "$strawberry" >"$tmp/prompt"
in=$tmp/prompt
same "$ids" "$pumice" run "$model" $short
in=/dev/null
same "$ids" "$pumice" run "$model" -f "$tmp/prompt" $short
in=$tmp/prompt
same "$ids" "$pumice" run "$model" -f - $short
in=/dev/null
in=$tmp/ids
same "$(golden 4 greedy | cut -d ' ' -f -8)" "$pumice" run "$model" --ids - $short
in=/dev/null
printf '<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n' "$strawberry" >"$tmp/raw"
same "$ids" "$pumice" run "$model" --raw -f "$tmp/raw" $short
# Both: the text, an empty line, the file.
printf '<|im_start|>user\n1\n\n2<|im_end|>\n<|im_start|>assistant\n' >"$tmp/raw"
echo 2 >"$tmp/two"
expect 0 '*' "prompt 12 tokens" "$pumice" run "$model" --raw -f "$tmp/raw" -n 4 --temp 0 --print-ids
same "$(cat "$out")" "$pumice" run "$model" -p 1 -f "$tmp/two" -n 4 --temp 0 --print-ids
printf '<|im_start|>system\nB<|im_end|>\n<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n' >"$tmp/raw"
expect 0 '*' "tokens" "$pumice" run "$model" --raw -f "$tmp/raw" -n 4 --temp 0 --print-ids
same "$(cat "$out")" "$pumice" run "$model" -p 1 -s B -n 4 --temp 0 --print-ids

# ---- sampling ---------------------------------------------------------------------------------------------------------------

wild="--temp 2 --top-k 0 --top-p 1 -n 20 --print-ids"
expect 0 '*' "seed 7 |" "$pumice" run "$model" --raw -p a $wild --seed 7
same "$(cat "$out")" "$pumice" run "$model" --raw -p a $wild --seed 7
first=$(cat "$out")
expect 0 '*' "seed 8 |" "$pumice" run "$model" --raw -p a $wild --seed 8
[ "$first" != "$(cat "$out")" ] || bad "two seeds, one answer" "$wild"
expect 0 '*' "seed " "$pumice" run "$model" --raw -p a $wild
seed=$(sed -n 's/.*| seed \([0-9]*\) |.*/\1/p' "$err")
same "$(cat "$out")" "$pumice" run "$model" --raw -p a $wild --seed "$seed"
same "$ids" "$pumice" run "$model" -p "$strawberry" $short --temp 2 --top-k 1
# The checkpoint's own: it samples with 0.6, 20, 0.95.
expect 0 '*' "seed 3 |" "$pumice" run "$model" --raw -p a --seed 3 -n 20 --print-ids
same "$(cat "$out")" "$pumice" run "$model" --raw -p a --seed 3 -n 20 --print-ids --temp 0.6 --top-k 20 --top-p 0.95 --min-p 0

# ---- logits, profile, words ---------------------------------------------------------------------------------------------------

expect 0 "" "answer 0 tokens | -n reached" "$pumice" run "$model" -p "$strawberry" -n 0 --dump-logits "$tmp/logits"
[ "$(wc -c <"$tmp/logits")" -eq 5120 ] || bad "not 1280 floats" "--dump-logits"
best=$(od -An -v -tf4 -w4 "$tmp/logits" | awk '$1 == "nan" { print "nan"; exit } NR == 1 || $1 > most { most = $1; best = NR - 1 } END { print best }')
[ "$best" = "${ids%% *}" ] || bad "the best logit is $best" "--dump-logits"
same "$ids" "$pumice" run "$model" -p "$strawberry" $short --dump-logits "$tmp/again"
cmp -s "$tmp/logits" "$tmp/again" || bad "not the same logits" "--dump-logits"
expect 0 "1278" "dispatches, 6 a layer" "$pumice" run "$model" -p "$strawberry" $short --profile
grep -q '^matvec.*feed-forward' "$err" || bad "no product in the profile" "--profile"
expect 0 "--dump-logits" "" "$pumice" run --help
[ "$(wc -l <"$out")" -le 24 ] && [ "$(awk 'length > 80' "$out" | wc -l)" = 0 ] || bad "help is larger than a screen" "run --help"
expect 0 "--rope-bf16" "" "$pumice" run --help-all
expect 0 '*' "MiB of weights" "$pumice" run "$model" -p hi -n 1 -v

# ---- ways to stop -------------------------------------------------------------------------------------------------------------

# A model that never ends its turn.
model_with endless
rm "$tmp/endless/config.json" "$tmp/endless/generation_config.json"
sed 's/"eos_token_id": 1256/"eos_token_id": 1253/' "$model/config.json" >"$tmp/endless/config.json"
expect 0 '*' "prompt 15 tokens" "$pumice" run "$tmp/endless" -p "$strawberry" --temp 0 -n 40 --print-ids
stats 'answer 40 tokens.*-n reached'
expect 0 '*' "*" "$pumice" run "$tmp/endless" -p "$strawberry" --temp 0 --ctx 32 --print-ids
stats 'answer 18 tokens.*context full' # 17 of them were run
[ "$(wc -w <"$out")" = 18 ] || bad "not 18 ids" "--ctx 32"
expect 0 '*' "*" "$pumice" run "$tmp/endless" -p "$strawberry" --temp 0 --ctx 15 --print-ids
stats 'answer 1 token \| context full'

: >"$out"
"$pumice" run "$tmp/endless" -p "$strawberry" --temp 0 --ctx 65536 >"$out" 2>"$err" &
while [ ! -s "$out" ] && kill -0 $! 2>/dev/null; do sleep 0.1; done
kill -INT $!
wait $!
rc=$?
[ $rc = 130 ] || bad "exit code $rc, not 130" "Ctrl-C"
stats 'interrupted'

"$pumice" run "$tmp/endless" -p "$strawberry" --temp 0 2>"$err" | head -c 5 >"$out"
stats 'nobody reads on'
if [ -w /dev/full ]; then
    "$pumice" run "$model" -p hi >/dev/full 2>"$err"
    [ $? = 1 ] && grep -q "could not be written" "$err" || bad "a full disk went unnoticed" "run >/dev/full"
    expect 1 "" "/dev/full: No space" "$pumice" run "$model" -p hi -n 0 --dump-logits /dev/full
    [ -c /dev/full ] || bad "/dev/full is no device any more" "--dump-logits"
fi

# ---- bad input ----------------------------------------------------------------------------------------------------------------

expect 2 "" "MODEL is missing" "$pumice" run
expect 2 "" "the prompt is empty" "$pumice" run "$model"
expect 2 "" "the prompt is empty" "$pumice" run "$model" -p ""
expect 1 "" "/missing: No such file" "$pumice" run "$tmp/missing" -p hi
expect 1 "" "/missing: No such file" "$pumice" run "$model" -f "$tmp/missing"
expect 1 "" "/missing: No such file" "$pumice" run "$model" --ids "$tmp/missing"
expect 1 "" "/missing/logits: No such file" "$pumice" run "$model" -p hi -n 0 --dump-logits "$tmp/missing/logits"
expect 2 "" "--ids: no id at offset 2" "$pumice" run "$model" --ids 5,x
expect 2 "" "outside the vocabulary of 1280" "$pumice" run "$model" --ids 5,1280
expect 2 "" "--ids: no id at offset 0" "$pumice" run "$model" --ids 99999999999999999999
expect 2 "" "goes with none of" "$pumice" run "$model" --ids 5 -p hi
expect 2 "" "goes with neither" "$pumice" run "$model" --raw -s hi -p hi
expect 2 "" "wanted off or on" "$pumice" run "$model" -p hi --think perhaps
expect 2 "" "wanted f16 or f32 or fast" "$pumice" run "$model" -p hi --precision f64
expect 2 "" "wanted a number from 0" "$pumice" run "$model" -p hi --temp nan
expect 2 "" "wanted a whole number from 1" "$pumice" run "$model" -p hi --ctx 0
expect 1 "" "the prompt has 15 tokens, the context has room for 14" "$pumice" run "$model" -p "$strawberry" --ctx 14
refuses_bytes "-p: not UTF-8: invalid byte 0xFF at offset 3" "$pumice" run "$model" -p "$(printf 'abc\377')"
printf 'ab\0c' >"$tmp/zero"
expect 2 "" "zero: a zero byte at offset 2" "$pumice" run "$model" -f "$tmp/zero"
expect 3 "" "no device \"nosuchdevice\"" "$pumice" run "$model" -p hi --device nosuchdevice
yes "how many words are there" | head -n 2000 >"$tmp/long"
expect 1 "" "which is all the model was made for" "$pumice" run "$model" -f "$tmp/long"

model_with broken
rm "$tmp/broken/model.safetensors"
head -c 4000000 "$model/model.safetensors" >"$tmp/broken/model.safetensors"
expect 1 "" "model.safetensors" "$pumice" run "$tmp/broken" -p hi
model_with mute
rm "$tmp/mute/tokenizer.json" "$tmp/mute/tokenizer_config.json"
expect 1 "" "comes without a tokenizer" "$pumice" run "$tmp/mute" -p hi
same "$(golden 4 greedy)" "$pumice" run "$tmp/mute" --ids "$tmp/ids" --temp 0

PUMICE_CACHE=/dev/null/cache
export PUMICE_CACHE
same "$ids" "$pumice" run "$model" -p "$strawberry" $short
VK_DRIVER_FILES=/nonexistent/driver.json VK_ICD_FILENAMES=/nonexistent/driver.json
export VK_DRIVER_FILES VK_ICD_FILENAMES
expect 3 "" "pumice: no Vulkan driver found" "$pumice" run "$model" -p hi
exit $failed
