#!/bin/sh
# Proves the tree: builds with gcc and clang, runs every suite on every driver, under the validation layers and the sanitizers,
# fuzzes, and checks rooms and format. The last line is "N passed, N failed"; the exit code is 0 when nothing failed.
#   ./test.sh           all of it; of Arm, Android and Windows a slice
#   ./test.sh --quick   the inner loop: one build, lavapipe, rooms, format
#   ./test.sh --all     also newer drivers, the slow sweeps, more of the other systems, packages, and real weights against llama.cpp
set -u
root=$(cd "$(dirname "$0")" && pwd)
. "$root/tests/setup.sh"
mode=${1:-}
case $mode in '' | --quick | --all) ;; *) die "usage: ./test.sh [--quick|--all]" ;; esac
cd "$root" || exit 1
gcc_build=$root/build-test
clang_build=$root/build-clang # with sanitizers, and the fuzz targets

need_to_test() {
    need "command:git git" "package:cmocka libcmocka-dev cmocka"
    [ "$mode" != --quick ] || return 0
    need "command:clang clang" "file:/usr/share/vulkan/explicit_layer.d/VkLayer_khronos_validation.json vulkan-validationlayers"
    need "file:$(clang -print-resource-dir)/lib/linux libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev compiler-rt"
}

# part "what" COMMAND...: a heading, the command's own lines, the seconds it took.
part() {
    began=$(date +%s)
    echo "== $1"
    shift
    "$@"
    echo "   $(($(date +%s) - began)) s"
}

# The tree is formatted by clang-format 14, other versions differ in corners: where the system's is another, Debian 12's is unpacked.
check_format() {
    format=$(command -v clang-format-14 || command -v clang-format || true)
    case $("${format:-false}" --version 2>/dev/null) in
    *"version 14."*) ;;
    *)
        unpack clang-format-14 bookworm all clang-format-14 || { skip "clang-format 14 cannot be fetched" && return; }
        format="$cache/clang-format-14/with $cache/clang-format-14/usr/bin/clang-format-14"
        ;;
    esac
    # shellcheck disable=SC2086
    if git ls-files -co --exclude-standard '*.c' '*.h' | xargs $format --dry-run -Werror >"$log" 2>&1; then
        tally 1 0 0
    else
        grep error: "$log" | head -20
        echo "    FAILED: run clang-format -i on these"
        tally 0 1 0
    fi
}

# A build folder without warnings and with assertions; nothing else can be told where it fails.
must_build() {
    dir=$1
    shift
    if (build "$dir" -DPM_TESTS=ON -DPM_WERROR=ON "-DCMAKE_C_FLAGS_RELWITHDEBINFO=-O2 -g" "$@"); then
        tally 1 0 0
    else
        tally 0 1 0
        finish
    fi
}

# The sum of all, on two lines: what was skipped was told above with its reason.
finish() {
    sum | sed 's/\(.*\), \([0-9]* skipped\)$/\2\n\1/'
    sum >/dev/null
    exit
}

# A line of the layer's is a failure; so is a layer that is not there. The loader tells that on stderr, where tests read what programs
# say: it is asked for once, by a program of its own.
run_validation() {
    settings=$gcc_build/vk_layer_settings.txt
    cat >"$settings" <<'SETTINGS'
khronos_validation.enables = VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT
khronos_validation.validate_sync = true
khronos_validation.syncval_shader_accesses_heuristic = true
khronos_validation.report_flags = error,warn,perf
khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG
SETTINGS
    export VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation VK_LAYER_SETTINGS_PATH="$settings"
    spoken=$gcc_build/Testing/Temporary/LastTest.log
    if VK_LOADER_DEBUG=layer "$gcc_build/pumice" run tests/data/tiny-qwen3 -p hi -n 1 2>&1 |
        grep -q 'Inserted device layer "VK_LAYER_KHRONOS_validation"'; then
        only='^(test_host_.*|op_.*|test_backend_.*|app_(run|chat|embed|sampling|bench|perplexity))$' \
            count tests/drivers.sh "$gcc_build" lavapipe # what opens a device
    else
        echo "    FAILED: the validation layer was not loaded"
        tally 0 1 0
    fi
    unset VK_INSTANCE_LAYERS VK_LAYER_SETTINGS_PATH
    if grep -nE 'VUID-|UNASSIGNED-|SYNC-HAZARD|Validation (Error|Warning|Performance)' "$spoken" | cut -c1-400 | sort -u | head -20 | grep .; then
        echo "    FAILED: the validation layer is not silent ($spoken)"
        tally 0 1 0
    else
        tally 1 0 0
    fi
}

# Drivers stay loaded to the end of a program: what a driver keeps is then reachable, and a leak of ours has a readable stack.
run_sanitized() {
    echo 'int dlclose(void *library) { (void)library; return 0; }' | cc -shared -fPIC -x c - -o "$clang_build/stay.so"
    LD_PRELOAD=$clang_build/stay.so UBSAN_OPTIONS=print_stacktrace=1 \
        LSAN_OPTIONS=suppressions=$root/tests/lsan.supp:print_suppressions=0 count tests/drivers.sh "$clang_build" lavapipe
}

need_to_build
need_to_test
find_tools
if tokenizer=$(tests/fetch-tokenizer.sh); then export PM_QWEN3_TOKENIZER="$tokenizer"; else say "-- $tokenizer"; fi
part "rooms" count tests/rooms.sh
part "format" check_format
part "build with gcc" must_build "$gcc_build"
if [ "$mode" = --quick ]; then
    part "suite" count tests/drivers.sh "$gcc_build" lavapipe
    finish
fi
part "build with clang, sanitizers and fuzz targets" must_build "$clang_build" -DCMAKE_C_COMPILER=clang -DPM_FUZZ=ON \
    -DPM_SANITIZE=address,undefined
drivers="lavapipe swiftshader radv limits:mali"
[ "$mode" != --all ] || { drivers="lavapipe swiftshader radv mesa-25 mesa-26 limits" && export PM_SLOW=1; }
# shellcheck disable=SC2086
part "suite on $drivers" count tests/drivers.sh "$gcc_build" $drivers
part "suite under the validation layers" run_validation
part "suite under ASan and UBSan" run_sanitized
[ "$mode" != --all ] || part "packages" count tests/package.sh "$gcc_build"
[ "$mode" = --all ] && how='' || how=quick
PM_SLOW='' part "64-bit Arm" count tests/arm.sh "$how"
part "Android" count tests/android.sh "$how"
part "Windows" count tests/windows.sh "$how"
part "fuzz" count tests/fuzz.sh "$clang_build" 60
[ "$mode" != --all ] || part "real weights against llama.cpp" count tests/peer.sh "$gcc_build"
finish
