#!/bin/sh
# shellcheck disable=SC2086
# app_selftest.sh PUMICE: kernels that are broken on purpose (PM_BREAK, which builds with tests have) change no answer of `pumice run`:
# what is wrong, does not end, loses the device, crashes or does not compile is found out in a child and passed over. Caches that lie
# or cannot be had change none either. Also `pumice tune` and `pumice devices --test`, as far as they are quick.
set -u
pumice=$1
. "${0%/*}/expect.sh"
model=${0%/*}/data/tiny-qwen3
PUMICE_CACHE=$tmp/cache
export PUMICE_CACHE

"$pumice" devices >"$out" 2>"$err"
[ $? != 3 ] || { cat "$err" && exit 77; }

run="$pumice run $model -p hi --temp 0 -n 6 --print-ids"
answer=$(PM_SELFTEST=0 $run 2>"$err") || bad "no answer" $run
[ ! -e "$tmp/cache" ] || ! ls "$tmp/cache" | grep -q verdicts || bad "verdicts without a test" $run

# The answer, but for probabilities: another size of a workgroup adds them up in another order.
answer_in() {
    sed 's/"logprob":[^,}]*//g' "$1"
}

# broken HOW "what is told" [VARIABLES]: from an empty cache, and again from what is kept, where nothing is told any more.
broken() {
    how=$1 told=$2
    rm -rf "$tmp/cache"
    expect 0 '*' "$told" env "PM_BREAK=$how" $run
    [ "$answer" = "$(answer_in "$out")" ] || bad "another answer" "PM_BREAK=$how"
    [ "$(grep -c '^warning.*the kernel' "$err")" -ge 1 ] || bad "no line about it" "PM_BREAK=$how"
    expect 0 '*' 'prompt' env "PM_BREAK=$how" $run
    [ "$answer" = "$(answer_in "$out")" ] || bad "another answer the second time" "PM_BREAK=$how"
    ! grep -q '^warning.*the kernel' "$err" || bad "told twice" "PM_BREAK=$how"
}

# The first variant of the device at hand, as the table of verdicts tells it.
same "$answer" $run
use=$(sed -n 's/^matvec_bf16:\([^ ]*\) right.*/\1/p' "$tmp"/cache/verdicts-*.txt | head -n 1)
group=${use%%,*}
broken "matvec_bf16:$group=wrong" "computes what is wrong"
broken "matvec_*=compile" "is refused by the driver" # matmul is left
broken "matvec_bf16:$use=lost" "loses the device"
broken "matvec_bf16:$use=crash" "crashes the driver"
broken "embed_bf16:32=wrong;gather:64=lost;sample:128=crash" "others are used in place"
broken "attend_f16=wrong;rope_store_f16=compile" "others are used in place" # the plain ones are left
broken "attend_f16=lost;attend_plain_f16:64=wrong;rope_store_f16=wrong;rope_store_plain_f16:32=crash" "others are used in place"
export PM_TRIAL_MS=8000
broken "gather:64=hang" "does not end" # a submission
export PM_TRIAL_MS=3000
broken "sample:128=stall" "does not end" # a compiler, which is killed with the child
unset PM_TRIAL_MS

# Nothing is left of attention: said, and no wrong answer.
rm -rf "$tmp/cache"
expect 1 '' "no variant of the kernel attend_f16 is right on" env "PM_BREAK=attend_*=wrong" $run
expect 1 '' "no variant of the kernel attend_f16 is right on" env "PM_BREAK=attend_*=wrong" $run
# and a driver that was mended meanwhile is believed, whatever the cache says
same "$answer" $run

# What draws ids, with penalties and probabilities.
usual_run=$run
run="$pumice run $model -p hi --temp 0.9 --seed 7 -n 6 --repeat-penalty 1.3 --logprobs 3"
PM_SELFTEST=0 $run >"$out" 2>"$err" || bad "no answer" $run
answer=$(answer_in "$out")
broken "adjust:128=wrong;sample:128=wrong;logprobs:128=wrong" "computes what is wrong"
broken "adjust:128=lost;adjust:64=wrong;sample:128=compile;logprobs:128=crash" "others are used in place"

# A mixture of experts: a prompt of more rows than are taken one by one, and steps.
run="$pumice run ${0%/*}/data/checkpoints/qwen3moe --ids 3,1,4,1,5,9,2,6,5,3,5,8 --temp 0 -n 6 --print-ids"
answer=$(PM_SELFTEST=0 $run 2>"$err") || bad "no answer" $run
broken "route:64=wrong;group:128=lost;experts_sum:64=crash" "others are used in place"
broken "experts_matvec_*:$group=wrong" "computes what is wrong"
broken "experts_matvec_*=compile" "is refused by the driver" # all are grouped, for matmul
broken "group=wrong" "computes what is wrong"                # none are
broken "experts_sum=wrong" "computes what is wrong"
export PM_TRIAL_MS=8000
broken "experts_sum:64=hang" "does not end"
unset PM_TRIAL_MS
rm -rf "$tmp/cache"
expect 1 '' "no variant of the kernel experts_mat" env "PM_BREAK=experts_mat*=wrong" $run
run=$usual_run
answer=$(PM_SELFTEST=0 $run 2>"$err")

# ---- caches -----------------------------------------------------------------------------------------------------------------

rm -rf "$tmp/cache"
same "$answer" $run
verdicts=$(ls "$tmp"/cache/verdicts-*.txt)
cp "$verdicts" "$tmp/good"
# What a file says of each kernel, without numbers that vary.
told_in() {
    tail -n +3 "$1" | cut -d ' ' -f 1,2 | sort
}
damaged() {
    same "$answer" $run
    [ "$(told_in "$verdicts")" = "$(told_in "$tmp/good")" ] || bad "not rebuilt" "a cache that is $1"
}
sed 1s/pumice/pumize/ "$tmp/good" >"$verdicts" && damaged "of another kind"
sed '1s/ [0-9a-f]* \([0-9a-f]* [0-9a-f]*\)$/ 00000000000000000000000000000000 \1/' "$tmp/good" >"$verdicts" && damaged "of another device"
sed '1s/ \([0-9a-f]*\) \([0-9a-f]*\)$/ fffffff0 \2/' "$tmp/good" >"$verdicts" && damaged "of another version"
head -c 200 "$tmp/good" >"$verdicts" && damaged "cut"
sed 's/ right / wrong /' "$tmp/good" >"$verdicts" && damaged "forged"
head -c 5000 /dev/urandom >"$verdicts" && damaged "noise"
: >"$verdicts" && damaged "empty"
rm "$verdicts" && mkdir "$verdicts" && same "$answer" $run # a folder in its place
rmdir "$verdicts"
cp "$tmp/good" "$verdicts" && chmod 666 "$verdicts" && damaged "writable by all"
if [ "$(id -u)" = 0 ]; then
    cp "$tmp/good" "$verdicts" && chmod 644 "$verdicts" && chown 12345 "$verdicts" && damaged "another user's"
else
    cp "$tmp/good" "$verdicts" && chmod 000 "$verdicts" && same "$answer" $run
fi
for place in /dev/null/cache /proc; do
    expect 0 '*' 'prompt' env "PUMICE_CACHE=$place" $run
    [ "$answer" = "$(cat "$out")" ] || bad "another answer" "PUMICE_CACHE=$place"
done
# A home that can be read only, and in it another user's cache. Root writes everywhere, so that somebody else tries.
mkdir -p "$tmp/home/.cache"
cp -r "$tmp/cache" "$tmp/home/.cache/pumice"
chmod -R a+rX,go-w "$tmp" && chmod -R a-w "$tmp/home"
if [ "$(id -u)" != 0 ]; then
    expect 0 '*' 'prompt' env -u PUMICE_CACHE "HOME=$tmp/home" $run
    [ "$answer" = "$(cat "$out")" ] || bad "another answer" "a home that can be read only"
elif command -v setpriv >/dev/null && setpriv --reuid=65534 --regid=65534 --clear-groups test -r "$model/config.json" -a -x "$pumice"; then
    expect 0 '*' 'prompt' setpriv --reuid=65534 --regid=65534 --clear-groups env -u PUMICE_CACHE "HOME=$tmp/home" $run
    [ "$answer" = "$(cat "$out")" ] || bad "another answer" "another user's cache in a home that can be read only"
fi
chmod -R u+w "$tmp/home"

# Two processes at once, from nothing.
rm -rf "$tmp/cache"
$run >"$tmp/first" 2>"$tmp/first.err" &
same "$answer" $run
wait $! || bad "the other of two failed" "two at once"
[ "$answer" = "$(cat "$tmp/first")" ] || bad "another answer" "two at once"
same "$answer" $run

# ---- the tuner --------------------------------------------------------------------------------------------------------------

expect 0 "norm_glu" '*' "$pumice" tune "$model" --tune 6s
expect 0 "steps measured on" "" "$pumice" tune --export
cp "$out" "$tmp/plan"
same "$answer" $run
same "$(cat "$tmp/plan")" "$pumice" tune --export # a run from the cache measures nothing
same "$answer" $run --tune 1s
printf 'hi\n' >"$tmp/line"
in=$tmp/line
expect 0 '*' '*' "$pumice" chat "$model" --temp 0 -n 6 --tune 1s
in=/dev/null
same "$answer" env PM_TUNE=1 $run
# Two that tune at once, from nothing: each keeps what it measured, and what the other one did.
rm -rf "$tmp/cache"
"$pumice" tune "$model" --tune 4s >"$tmp/first" 2>"$tmp/first.err" &
expect 0 "norm_glu" '*' "$pumice" tune "$model" --tune 4s
wait $! || bad "the other of two failed" "two that tune at once"
awk '$6 ~ "/" { print $1, $2, $3, $4, $5, $6 } $1 == "attend" { print $1, $2, $3, $4, $5, $6, $7 }' "$tmp"/cache/plan-*.txt >"$tmp/steps"
[ -s "$tmp/steps" ] && [ -z "$(sort "$tmp/steps" | uniq -d)" ] || bad "nothing said, or twice" "two plans"
same "$answer" $run
expect 0 "steps measured on" "" "$pumice" tune --export
# A plan of another version, of another device, cut, another user's; and one that is noise.
plan=$(ls "$tmp"/cache/plan-*.txt)
cp "$plan" "$tmp/good"
foreign() {
    same "$answer" $run
    expect 0 "0 steps measured on" "" "$pumice" tune --export
}
sed '1s/ \([0-9a-f]*\) \([0-9a-f]*\)$/ fffffff0 \2/' "$tmp/good" >"$plan" && foreign
sed '1s/ [0-9a-f]* \([0-9a-f]* [0-9a-f]*\)$/ 00000000000000000000000000000000 \1/' "$tmp/good" >"$plan" && foreign
head -c 150 "$tmp/good" >"$plan" && foreign
head -c 5000 /dev/urandom >"$plan" && foreign
# Under Windows a folder is one user's own.
[ "$(id -u)" != 0 ] || [ -n "${PM_WINDOWS:-}" ] || { cp "$tmp/good" "$plan" && chown 12345 "$plan" && foreign; }
rm -f "$plan"
# Every way to lay out products that the tuner may choose here gives the golden answer.
for shape in 16,1,8,4 16,1,4,4 8,1,8,4 32,1,8,4 16,1,2,1 64,32,2,2; do
    same "$(golden 1 greedy)" env PM_MATVEC=$shape PM_MATVEC_BATCH=$shape PM_TILES=0 \
        "$pumice" run "$model" -p "How many r's in strawberry?" --temp 0 --print-ids
done
same "$(golden 1 greedy)" env PM_MATVEC=16,1,2,1 PM_TILES=1 "$pumice" run "$model" -p "How many r's in strawberry?" --temp 0 --print-ids
expect 2 "" "wanted seconds" "$pumice" run "$model" -p hi --tune soon
expect 2 "" "wanted seconds" "$pumice" tune "$model" --tune 20m
expect 2 "" "wanted seconds" "$pumice" chat "$model" --tune -1
expect 2 "" "MODEL is missing" "$pumice" tune
for help in tune devices; do
    expect 0 "--" "" "$pumice" $help --help
    [ "$(wc -l <"$out")" -le 24 ] && [ "$(awk 'length > 80' "$out" | wc -l)" = 0 ] || bad "help is larger than a screen" "$help --help"
done
exit $failed
