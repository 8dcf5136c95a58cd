#!/bin/sh
# app_sampling.sh PUMICE: what `pumice run` is told about sampling, from outside: penalties, bias, order, stop strings, loops,
# log-probabilities.
set -u
pumice=$1
. "${0%/*}/expect.sh"
model=${0%/*}/data/tiny-qwen3
strawberry="How many r's in strawberry?"

"$pumice" devices >"$out" 2>"$err"
[ $? != 3 ] || { cat "$err" && exit 77; }

# run ARGS...: the strawberry question, greedy unless the arguments say other.
run() {
    "$pumice" run "$model" -p "$strawberry" --temp 0 "$@"
}

# ---- stop strings -------------------------------------------------------------------------------------------------------------

thought="<think>
s t r=1 a w b e r=2 r=3 y . So 3.
</think>"
same "$thought

There are" run --stop " 3 r's"
grep -q '| stop string |' "$err" || bad "the statistics lack the reason" "--stop"
same "<think>
s t r=1 a w b e" run --stop "no such" --stop " r=2" --stop strawberry
same "$thought

There are 3 r's in strawberry." run --stop "strawberry?" --stop "3 r's in strawberries"
grep -q '| end of turn' "$err" || bad "not the end of the turn" "--stop"
same "" run --stop "<"
same "你好！" "$pumice" run "$model" -p 你好 --temp 0 --think off --stop 有
ids=$(golden 1 greedy)
expect 0 "${ids%% *}" "stop string" run --stop "r=1" --print-ids
[ "$(wc -w <"$out")" -lt 12 ] || bad "too many ids" "--stop --print-ids"
expect 2 "" "--stop wants a text" run --stop ""
expect 2 "" "one too many" run --stop a --stop b --stop c --stop d --stop e
refuses_bytes "not UTF-8" run --stop "$(printf 'a\377')"

# ---- bias and penalties -------------------------------------------------------------------------------------------------------

same "99 99 99" run --logit-bias 99=100 -n 3 --print-ids
same "98 98" run --logit-bias "99=200,98=3e5" --logit-bias 99=-inf -n 2 --print-ids
same "${ids%% *}" run --logit-bias "0=-100,1=0" -n 1 --print-ids
expect 0 '*' '*' run --presence-penalty 1000 -n 40 --print-ids
[ "$(tr ' ' '\n' <"$out" | sort | uniq -d | wc -l)" = 0 ] || bad "an id came twice" "--presence-penalty"
expect 0 '*' '*' run --frequency-penalty 1000 -n 40 --print-ids
[ "$(tr ' ' '\n' <"$out" | sort | uniq -d | wc -l)" = 0 ] || bad "an id came twice" "--frequency-penalty"
same "$ids" run --repeat-penalty 1 --presence-penalty 0 --print-ids
expect 0 '*' '*' run --repeat-penalty 1000 -n 8 --print-ids
[ "$(cat "$out")" != "$(echo "$ids" | cut -d ' ' -f -8)" ] || bad "no difference" "--repeat-penalty"
for bad in "" 5 5= =3 5=x 5=nan 5=inf -1=3 5=1, 5=1,,6=2 "5=1 6=2" 99999999999=1; do
    expect 2 "" "no ID=X at offset" run "--logit-bias=$bad"
done
expect 2 "" "outside the vocabulary of 1280" run --logit-bias 1280=1
expect 2 "" "wanted a number from 0.001" run --repeat-penalty 0

# The checkpoint's own: generation_config.json.
mkdir "$tmp/penalty"
for file in "$model"/*; do
    ln -s "$(cd "$model" && pwd)/${file##*/}" "$tmp/penalty/"
done
rm "$tmp/penalty/generation_config.json"
sed 's/{/{"repetition_penalty": 1000,/' "$model/generation_config.json" >"$tmp/penalty/generation_config.json"
expect 0 '*' '*' run --repeat-penalty 1000 -n 8 --print-ids
same "$(cat "$out")" "$pumice" run "$tmp/penalty" -p "$strawberry" --temp 0 -n 8 --print-ids
same "$(echo "$ids" | cut -d ' ' -f -8)" "$pumice" run "$tmp/penalty" -p "$strawberry" --temp 0 -n 8 --print-ids --repeat-penalty 1

# ---- order and typical-p ------------------------------------------------------------------------------------------------------

wild="--temp 2 --top-k 9 --top-p 0.8 --min-p 0.1 --seed 7 -n 24 --print-ids --raw"
answer() {
    expect 0 '*' "seed 7" "$pumice" run "$model" -p a $wild "$@"
    cat "$out"
}
usual=$(answer)
hot=$(answer --sampler-order llamacpp)
[ "$usual" = "$(answer --sampler-order hf)" ] || bad "the usual order is another" "--sampler-order hf"
[ "$usual" = "$(answer --sampler-order temp,top-k,top-p,min-p,typical-p)" ] || bad "a list is another" "--sampler-order"
[ "$hot" = "$(answer --sampler-order top-k,typical-p,top-p,min-p,temp)" ] || bad "a list is another" "--sampler-order llamacpp"
[ "$hot" != "$usual" ] || bad "the order makes no difference" "--sampler-order"
expect 0 '*' "seed 7" "$pumice" run "$model" -p a $wild --sampler-order vllm --typical-p 0.5
for bad in x "" temp temp,top-k,top-p,min-p temp,temp,top-k,top-p,min-p temp,top-k,top-p,min-p,typical-p,temp hf,temp; do
    expect 2 "" "--sampler-order" run "--sampler-order=$bad"
done
expect 2 "" "wanted a number from 0 to 1" run --typical-p 1.1

# ---- loops --------------------------------------------------------------------------------------------------------------------

same "$(yes 99 | head -n 80 | tr '\n' ' ' | sed 's/ $//')" run --logit-bias 99=1000 -n 80 --print-ids
[ "$(grep -c "runs in circles" "$err")" = 1 ] || bad "not one warning" "a loop"
expect 0 '*' '*' run
! grep -q "circles" "$err" || bad "a warning" "no loop"

# ---- log-probabilities --------------------------------------------------------------------------------------------------------

expect 0 '"top_logprobs":[]' "-n reached" run --logprobs 0 -n 3
expect 0 '*' "-n reached" run --logprobs 3 -n 4
[ "$(wc -l <"$out")" = 4 ] || bad "not a line a token" "--logprobs"
[ "$(sed 's/^{"id":\([0-9]*\),.*/\1/' "$out" | tr '\n' ' ')" = "$(echo "$ids" | cut -d ' ' -f -4) " ] || bad "other ids" "--logprobs"
[ "$(head -n 1 "$out" | grep -o '"logprob"' | wc -l)" = 4 ] || bad "not three alternatives" "--logprobs"
grep -q '"token":"<think>","bytes":\[60,116,104,105,110,107,62\],"logprob":' "$out" || bad "no token" "--logprobs"
expect 2 "" "wanted a whole number from 0 to 20" run --logprobs 21
exit $failed
