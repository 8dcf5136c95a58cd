#!/bin/sh
# package.sh BUILD: makes the packages of a build folder, installs the .deb with what it depends on in a fresh root of this very
# Debian, unpacks the .tar.gz, and lets both answer with the model that comes along. Ends with "N passed, N failed, N skipped".
# Needs root, apt and a network; the bare root is kept in the cache.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/tests/setup.sh"
build=$(cd "${1:?usage: package.sh BUILD}" && pwd)
made=$build/packages
codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
bare=$cache/bare-$codename
clean=$build/clean-root

# answers "what" COMMAND...: the program says its version and runs a model on Mesa.
answers() {
    what=$1
    shift
    if "$@" --version >"$totals.out" 2>&1 && grep -q '^pumice .*commit' "$totals.out" &&
        "$@" run /model -p "How many r's in strawberry?" --temp 0 >"$totals.out" 2>&1 && grep -q "There are 3 r's" "$totals.out"; then
        tally 1 0 0
    else
        head -n 5 "$totals.out"
        echo "    FAILED: $what does not run"
        tally 0 1 0
    fi
}

make_bare() {
    [ ! -e "$bare/etc/debian_version" ] || return 0
    say "-- a bare Debian $codename in $bare"
    rm -rf "$bare" "$bare.part"
    debootstrap --variant=minbase "$codename" "$bare.part" http://deb.debian.org/debian >"$log" 2>&1 && mv "$bare.part" "$bare"
}

inside() {
    DEBIAN_FRONTEND=noninteractive chroot "$clean" "$@" >>"$log" 2>&1
}

make_clean() {
    rm -rf "$clean"
    cp -a "$bare" "$clean" && cp -r "$root/tests/data/tiny-qwen3" "$clean/model" && cp "$made"/*.deb "$clean/pumice.deb" &&
        cp /etc/resolv.conf "$clean/etc/" && inside apt-get update && inside apt-get install -y --no-install-recommends /pumice.deb \
        mesa-vulkan-drivers && tar -xzf "$made"/*.tar.gz -C "$clean/opt" --strip-components=1
}

if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null || ! make_bare; then
    skip "packages: root, debootstrap, Debian and a network are needed"
    sum
    exit
fi
rm -rf "$made"
: >"$log"
if (cd "$build" && cpack -B "$made") >>"$log" 2>&1 && make_clean; then
    tally 1 0 0
    answers "what the .deb installs" chroot "$clean" pumice
    answers "what the .tar.gz holds" chroot "$clean" /opt/bin/pumice
else
    tail -n 10 "$log"
    echo "    FAILED: the packages cannot be made or installed ($log)"
    tally 0 1 0
fi
rm -rf "$clean"
sum
