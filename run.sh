#!/bin/sh
# Installs what is missing, builds into build/, lists the devices and answers a prompt with the bundled model. Arguments go to
# `pumice run`: ./run.sh -p "How many r's in strawberry?"
set -eu
root=$(cd "$(dirname "$0")" && pwd)
. "$root/tests/setup.sh"

need_to_build
find_tools
build "$root/build"

"$root/build/pumice" devices
[ $# -gt 0 ] || set -- -p "How many r's in strawberry?" --seed 7
exec "$root/build/pumice" run "$root/tests/data/tiny-qwen3" "$@"
