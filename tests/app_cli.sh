#!/bin/sh
# app_cli.sh PUMICE PUMICE-BENCH: what the programs answer to good and bad command lines, and with which exit code.
set -u
pumice=$1 bench=$2
. "${0%/*}/expect.sh"

"$pumice" devices >"$out" 2>"$err"
[ $? != 3 ] || { cat "$err" && exit 77; }

expect 0 "devices" "" "$pumice" --help
expect 0 "pumice 0." "" "$pumice" --version
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
