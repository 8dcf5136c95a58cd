#!/bin/sh
# app_quantize.sh PUMICE: the files of `pumice quantize` answer as the model they were made from, and what it says.
set -u
pumice=$1
. "${0%/*}/expect.sh"
model=${0%/*}/data/tiny-qwen3
checkpoints=${0%/*}/data/checkpoints

expect 0 "$tmp/f16.gguf: 46 tensors, 8.1 MiB (8.1 MiB before), 16 bits a weight" "" "$pumice" quantize "$model" "$tmp/f16.gguf" F16
expect 0 "2.5 MiB" "" "$pumice" quantize "$model/model.safetensors" "$tmp/q4.gguf" q4_k_m
expect 0 "Q4_K" "" "$pumice" info "$tmp/q4.gguf"
expect 0 "46 tensors" "29 tensors are quantized already" "$pumice" quantize "$tmp/q4.gguf" "$tmp/twice.gguf" Q5_0 --pure -v
cp "$tmp/q4.gguf" "$tmp/copy.gguf"
expect 0 "46 tensors" "" "$pumice" quantize "$tmp/q4.gguf" "$tmp/copy.gguf" Q4_K_M # replaced by the same
cmp "$tmp/q4.gguf" "$tmp/copy.gguf" || bad "a file's own types should not change it" "quantize"
expect 0 "tensors" "rows of 320 are no multiple of Q6_K's block of 256: Q8_0 instead" \
    "$pumice" quantize "$checkpoints/llama" "$tmp/wide.gguf" Q6_K

# What makes no sense, and what cannot be done.
expect 2 "" "TYPE is missing" "$pumice" quantize "$model" "$tmp/x.gguf"
expect 2 "" "Q9 is no type to write; there are F32 F16" "$pumice" quantize "$model" "$tmp/x.gguf" Q9
expect 2 "" "Q4_K_M is no type to write a tensor in" "$pumice" quantize "$model" "$tmp/x.gguf" Q8_0 --output-type Q4_K_M
expect 2 "" "is read and cannot be written too" "$pumice" quantize "$tmp/q4.gguf" "$tmp/../${tmp##*/}/q4.gguf" Q8_0
expect 1 "" "missing: No such file" "$pumice" quantize "$tmp/missing" "$tmp/x.gguf" Q8_0
expect 1 "" "No such file" "$pumice" quantize "$model" "$tmp/missing/x.gguf" Q8_0
expect 1 "" "no file that could be replaced" "$pumice" quantize "$model" "$tmp" Q8_0
expect 0 "Q4_K_S" "" "$pumice" quantize --help
# A disk that is full after a megabyte.
full() {
    (trap '' XFSZ && ulimit -f 2000 && exec "$@")
}
expect 1 "" "x.gguf: cannot be written: " full "$pumice" quantize "$model" "$tmp/x.gguf" Q8_0
# Ctrl-C as soon as the file grows; a machine that was done before is no failure.
"$pumice" quantize "$model" "$tmp/x.gguf" IQ4_XS --pure >"$out" 2>"$err" &
pid=$!
n=0
while kill -0 $pid 2>/dev/null && ! ls "$tmp"/x.gguf.*.tmp >/dev/null 2>&1 && [ $n -lt 200 ]; do
    sleep 0.02
    n=$((n + 1))
done
kill -INT $pid 2>/dev/null
wait $pid
rc=$?
[ $rc = 130 ] || [ $rc = 0 ] || bad "exit code $rc after Ctrl-C" "quantize"
[ $rc = 0 ] || [ ! -e "$tmp/x.gguf" ] || bad "a file that is not whole" "quantize, stopped"
ls "$tmp"/*.tmp >/dev/null 2>&1 && bad "something is left" "quantize"

"$pumice" devices >"$out" 2>"$err"
[ $? != 3 ] || { [ $failed = 1 ] && exit 1; cat "$err" && exit 77; }

# The same ids from the file as from what it was made of.
answers() {
    in=$1 made=$2
    shift 2
    "$pumice" run "$in" --temp 0 --print-ids "$@" >"$tmp/ids" 2>"$err" </dev/null || bad "does not run" "$in"
    in=/dev/null
    same "$(cat "$tmp/ids")" "$pumice" run "$made" --temp 0 --print-ids "$@"
}
answers "$model" "$tmp/f16.gguf" -p "How many r's in strawberry?" -n 40
[ "$(wc -w <"$tmp/ids")" -ge 24 ] || bad "too few ids" "run"
for name in llama qwen2 qwen3-yarn; do
    expect 0 "tensors" "" "$pumice" quantize "$checkpoints/$name" "$tmp/$name.gguf" BF16
    answers "$checkpoints/$name" "$tmp/$name.gguf" --ids 5,17,9,40,3 -n 8
done
expect 0 "There are 3 r's in strawberry." '*' "$pumice" run "$tmp/q4.gguf" --temp 0 -p "How many r's in strawberry?"
exit $failed
