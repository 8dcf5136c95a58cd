#!/bin/sh
# app_limits.sh PUMICE: under the limits of three devices that have a name, with PM_SLOW of all, the bundled model gives transformers'
# answer.
set -u
pumice=$1
. "${0%/*}/expect.sh"
model=${0%/*}/data/tiny-qwen3

"$pumice" devices >"$out" 2>"$err"
[ $? != 3 ] || { cat "$err" && exit 77; }
[ -z "${PM_LIMITS:-}" ] || { echo "PM_LIMITS is set: limits would be added to limits" && exit 77; }
expect 2 '' 'none of adreno, ' "$pumice" devices --limits toaster
golden 1 greedy >"$tmp/ids"
names=$(sed -n 's/.*none of //; s/,//gp' "$err")
[ -n "$names" ] || bad "no names are told" "$pumice devices --limits toaster"
for name in $names; do
    case $name in adreno | mali | rx580) ;; *) [ -n "${PM_SLOW:-}" ] || continue ;; esac
    expect 0 "as $name" '' "$pumice" devices --limits "$name"
    expect 0 "$(cat "$tmp/ids")" '*' "$pumice" run "$model" -p "How many r's in strawberry?" --temp 0 --print-ids --limits "$name"
done
exit $failed
