#!/bin/sh
# drivers.sh BUILD [DRIVER...]: runs the suite of a build folder on each driver; without names on lavapipe, swiftshader and radv.
#   lavapipe     the system's Mesa
#   swiftshader  out of Debian's chromium: subgroups of 4, no 16-bit storage, 1 GiB a buffer
#   mesa-25      lavapipe of Debian 13, mesa-26: of Debian sid (the only one with cooperative matrices); each with its own C library
#   limits       lavapipe with the limits of devices that are not here (host/limits.c): all that opens a device as two phones, the
#                kernels and the forward pass as a card, a slice and the forward pass as the others; limits:NAME a slice as one of
#                them; limits:NAME:whole as the two phones
#   native       whatever this machine's Vulkan loader finds
#   radv         compiles every kernel for AMD chips that are not here, and prints their registers: no spill is allowed
# A driver that cannot be had is skipped with the reason. Ends with "N passed, N failed, N skipped".
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/tests/setup.sh"
chips="polaris10 vega10 navi10 navi21 navi31 gfx1150 gfx1201"
# on DRIVER-FILE [LAUNCHER]: VK_ICD_FILENAMES is what loaders before 1.3.207 read.
on() {
    VK_DRIVER_FILES=$1 VK_ICD_FILENAMES=$1 count "$root/tests/suite.sh" "$build" "${2:-}"
}

run_lavapipe() {
    for json in /usr/share/vulkan/icd.d/lvp_icd*.json; do
        [ -e "$json" ] || { skip "Mesa's lavapipe is not installed" && return; }
        on "$json"
        return
    done
}

# SwiftShader takes five times as long as lavapipe: without PM_SLOW it runs what is about kernels only.
kernels='^(test_host_.*|op_.*|test_backend_(forward|session|sampler)|app_run)$'
run_swiftshader() {
    fetch_swiftshader || { skip "SwiftShader cannot be fetched (no apt, network or Debian keys)" && return; }
    if [ -n "${PM_SLOW:-}" ]; then on "$swiftshader"; else only=$kernels on "$swiftshader"; fi
}

# Of what a device has less of, the paths that it leads to: cut weights, staging, tiles, workgroups that are smaller.
slice='^(test_host_[^s].*|op_attend|op_embed|op_gather|op_rope_store|app_run)$'
goldens='^(test_host_[^s].*|op_(attend|embed|gather|rope_store)|test_backend_forward|app_run)$'
kinds='^(test_host_[^s].*|op_.*|test_backend_(forward|session|plan|quantized|score)|app_run)$'
whole='^(test_host_[^s].*|op_.*|test_backend_.*|app_(run|chat|embed|sampling|perplexity))$'

# as NAME PATTERN: lavapipe as one of the devices of host/limits.c, and which programs
as() {
    echo "  as $1"
    PM_LIMITS=$1 only=$2 run_lavapipe
}

run_limits() {
    for name in $(sed -n 's/^    {"\([a-z0-9-]*\)", true.*/\1/p' "$root/host/limits.c"); do
        case $name in
        adreno | mali) as "$name" "$whole" ;;
        rx580) as "$name" "$kinds" ;;
        *) as "$name" "$goldens" ;;
        esac
    done
}

# mesa NAME SUITE: with the validation layer of the same suite, for the system's does not know the newer features.
mesa() {
    if fetch_mesa "$1" "$2"; then
        VK_LAYER_PATH=$cache/$1/usr/share/vulkan/explicit_layer.d on "$cache/$1/usr/share/vulkan/icd.d/lvp_icd.json" "$cache/$1/with"
    else
        skip "$1 cannot be fetched (no apt, network or Debian keys)"
    fi
}

# RADV itself offers the chips only up to Mesa 25; Debian 13's knows them all. The table goes to BUILD/radv.txt; it is shown
# where nothing else was asked for.
run_radv() {
    [ -x "$build/tests/radv_stats" ] || { skip "this build has no radv_stats" && return; }
    fetch_mesa mesa-25 trixie || { skip "Mesa 25 cannot be fetched" && return; }
    table=$build/radv.txt
    : >"$table"
    for chip in $chips; do
        compile_for "$chip"
    done
    [ $alone = 0 ] || awk 'NR == 1 || $1 != "chip"' "$table"
}

compile_for() {
    json=$cache/mesa-25/usr/share/vulkan/icd.d/radeon_icd.json
    RADV_FORCE_FAMILY=$1 VK_DRIVER_FILES=$json VK_ICD_FILENAMES=$json MESA_SHADER_CACHE_DISABLE=1 \
        "$cache/mesa-25/with" "$build/tests/radv_stats" >"$totals.out" 2>"$totals.err"
    verdict=$?
    cat "$totals.out" >>"$table"
    if [ $verdict = 0 ]; then
        echo "    $1: $(grep -c "^$1 " "$totals.out") pipelines, no spill"
        tally 1 0 0
    else
        grep -E 'SPILLS|DOES NOT COMPILE' "$totals.out" || tail -n 5 "$totals.err"
        echo "    FAILED: $1: a kernel spills or does not compile ($table)"
        tally 0 1 0
    fi
}

build=${1:?usage: drivers.sh BUILD [native|lavapipe|swiftshader|mesa-25|mesa-26|radv|limits|limits:NAME[:whole]]...}
build=$(cd "$build" && pwd)
shift
alone=$(($# == 1))
[ $# -gt 0 ] || set -- lavapipe swiftshader radv
for driver; do
    echo "$driver"
    case $driver in
    limits:*:whole) name=${driver#*:} && as "${name%:*}" "$whole" ;;
    limits:*) as "${driver#*:}" "$slice" ;;
    lavapipe | swiftshader | radv | limits) "run_$driver" ;;
    native) count "$root/tests/suite.sh" "$build" ;;
    mesa-25) mesa mesa-25 trixie ;;
    mesa-26) mesa mesa-26 sid ;;
    *) die "no such driver: $driver" ;;
    esac
done
sum
