#!/bin/sh
# app_cli.sh PUMICE PUMICE-BENCH: what the programs answer to good and bad command lines, and with which exit code.
set -u
pumice=$1 bench=$2
. "${0%/*}/expect.sh"

"$pumice" devices >"$out" 2>"$err"
[ $? != 3 ] || { cat "$err" && exit 77; }

expect 0 "devices" "" "$pumice" --help
expect 0 "pumice 0." "" "$pumice" --version
grep -Eq '^pumice [0-9.]+ \(commit ([0-9a-f]{12}\+?|unknown), [A-Za-z]+ [0-9.]+, kernels [0-9a-f]{8}\)$' "$out" || bad "not a version" "$pumice" --version
expect 2 "" "usage: pumice COMMAND" "$pumice"
expect 2 "" "no command \"frobnicate\"" "$pumice" frobnicate
expect 0 "--json" "" "$pumice" devices --help
expect 0 "--json" "" "$pumice" devices --nonsense -h
expect 2 "" "no option --nonsense" "$pumice" devices --nonsense
expect 2 "" "--json takes no value" "$pumice" devices --json=yes
expect 2 "" "one argument too many" "$pumice" devices 0
expect 2 "" "one argument too many" "$pumice" devices -- --json
expect 2 "" "usage: pumice-bench" "$bench"
expect 2 "" "one argument too many" "$bench" x
expect 2 "" "no option --nonsense" "$bench" --nonsense
expect 0 "usage: pumice-bench" "" "$bench" --help

# Not checked for silence on stderr: drivers talk.
"$pumice" devices >"$out" 2>/dev/null || bad "no success" "$pumice" devices
lines=$(grep -c '^[0-9][0-9]*  .* | .* | ' "$out")
[ "$lines" = "$(wc -l <"$out")" ] && [ "$lines" -ge 1 ] || bad "not a line a device" "$pumice" devices
"$pumice" devices --json >"$out" 2>/dev/null || bad "no success" "$pumice" devices --json
[ "$(grep -c '"device_uuid"' "$out")" = "$lines" ] || bad "not as many devices as lines" "$pumice" devices --json

# limits: by name, from a report, and what is neither
seeds=${0%/*}/fuzz/seeds/limits
expect 0 "--limits" "" "$pumice" devices --help-all
expect 0 " as rx580 | discrete | " '*' "$pumice" devices --limits rx580
expect 0 " as Phone 1 | integrated | " '*' "$pumice" devices --limits "$seeds/phone.json"
for has in subgroup_arithmetic:false f16_arithmetic:false int_dot:false unified_memory:false max_shared:16384 \
    max_invocations:256 slice_align:256 max_buffer:1073741824 type:integrated; do
    expect 0 "*" '*' "$pumice" devices --json --limits "$seeds/phone.json"
    tr -d '"\t' <"$out" | grep -q "$has" || bad "not $has" "$pumice" devices --json --limits "$seeds/phone.json"
done
expect 2 "" "--limits toaster: no such file, and none of adreno, " "$pumice" devices --limits toaster
expect 1 "" "not valid JSON" "$pumice" devices --limits "$0"
echo '{"properties": {}}' >"$tmp/empty.json"
expect 1 "" "empty.json: no report of vulkan.gpuinfo.org" "$pumice" devices --limits "$tmp/empty.json"
sed 's/0x4000/0x400/' "$seeds/phone.json" >"$tmp/small.json"
expect 1 "" "limits of Phone 1: bytes of shared memory is 1024" "$pumice" devices --limits "$tmp/small.json"
expect 2 "" "pumice-bench: --limits toaster" "$bench" --limits toaster -m x

# no driver: one line, exit code 3
VK_DRIVER_FILES=/nonexistent/driver.json VK_ICD_FILENAMES=/nonexistent/driver.json
export VK_DRIVER_FILES VK_ICD_FILENAMES
expect 3 "" "pumice: no Vulkan driver found" "$pumice" devices
expect 3 "" "pumice: no Vulkan driver found" "$pumice" devices --json
unset VK_DRIVER_FILES VK_ICD_FILENAMES

if [ -w /dev/full ]; then
    "$pumice" --help >/dev/full 2>"$err"
    [ $? = 1 ] && grep -q "could not be written" "$err" || bad "a full disk went unnoticed" "$pumice" --help
fi
exit $failed
