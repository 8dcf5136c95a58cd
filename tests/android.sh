#!/bin/sh
# android.sh [quick]: what can be told here of a build for Android. Without its NDK: a build against musl, another small C library, of
# which every function that is called must be one that bionic has at API level 28 (tests/bionic.txt), no library is needed but the C
# library, and nothing is left undefined in the shared libpumice; then the tests that need no device (a driver here wants glibc).
# "quick": of these the shortest. With $ANDROID_NDK: programs, tests and the JNI example for arm64-v8a, API level 28. Ends with
# "N passed, N failed, N skipped".
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/tests/setup.sh"

# make_for NAME CMAKE-OPTIONS...: dependencies, then all of ours, into $build. Without libedit, which Android lacks.
make_for() {
    build=$root/build-$1 prefix=$cache/$1
    shift
    find_tools
    if static_libraries "$prefix" "$@" && (export PKG_CONFIG_LIBDIR="$prefix/lib/pkgconfig" && build "$build" "$@" -DPM_TESTS=ON -DPM_WERROR=ON \
        -DPM_LIBEDIT=OFF -DCMAKE_PREFIX_PATH="$prefix" -DBUILD_SHARED_LIBS=ON -DCMAKE_DISABLE_FIND_PACKAGE_Vulkan=ON \
        -DCMAKE_SHARED_LINKER_FLAGS=-Wl,--no-undefined); then
        tally 1 0 0
    else
        echo "    FAILED: the build of ${build##*/}"
        tally 0 1 0
        return 1
    fi
}

# verdict "what is wrong" LINES: a failure where there are lines
verdict() {
    if [ -n "$2" ]; then
        echo "$2" | sed 's/^/        /'
        echo "    FAILED: $1"
        tally 0 1 0
    else
        tally 1 0 0
    fi
}

check_symbols() {
    grep -v '^#' "$root/tests/bionic.txt" | tr ' ' '\n' | sort -u >"$totals.out"
    strange=$(nm -D -u "$build/libpumice.so" "$build/pumice" "$build/pumice-bench" | awk 'NF == 2 && $2 !~ /^(_|pm_)/ { print $2 }' |
        sort -u | grep -vxF -f "$totals.out")
    verdict "bionic may lack these: look them up in its libc.map.txt, then add them to tests/bionic.txt" "$strange"
    strange=$(readelf -d "$build/libpumice.so" "$build/pumice" "$build/pumice-bench" | grep NEEDED | grep -v '\[libc\.so\]')
    verdict "libraries are needed that Android lacks" "$strange"
}

run_musl() {
    can_have "command:musl-gcc musl-tools" && command -v musl-gcc >/dev/null && unpack_sources ||
        { skip "Android, musl: musl-tools, apt, a network and Debian's keys are needed" && return; }
    make_for musl -DCMAKE_C_COMPILER=musl-gcc || return
    check_symbols
    only=$slice count "$root/tests/suite.sh" "$build"
}

run_ndk() {
    toolchain=${ANDROID_NDK:-}/build/cmake/android.toolchain.cmake
    [ -n "${ANDROID_NDK:-}" ] && [ -e "$toolchain" ] && unpack_sources || { skip "Android, NDK: \$ANDROID_NDK is not set to one" && return; }
    make_for android -DCMAKE_TOOLCHAIN_FILE="$toolchain" -DANDROID_ABI=arm64-v8a -DANDROID_PLATFORM=android-28 \
        -DCMAKE_FIND_ROOT_PATH="$cache/android" || return
    if cmake --install "$build" --prefix "$build/installed" >"$log" 2>&1 &&
        cmake -G Ninja -S "$root/examples/android" -B "$build/jni" -DCMAKE_TOOLCHAIN_FILE="$toolchain" -DANDROID_ABI=arm64-v8a \
            -DANDROID_PLATFORM=android-28 -Dpumice_DIR="$build/installed/lib/cmake/pumice" >>"$log" 2>&1 &&
        ninja -C "$build/jni" >>"$log" 2>&1; then
        tally 1 0 0
    else
        tail -n 20 "$log"
        echo "    FAILED: the JNI example"
        tally 0 1 0
    fi
}

slow='|test_loader_.*'
slice="^(test_base_.*|test_loader_(bad|dequant|hf|models)|test_backend_(chat|stops|tokenizer|turn)${PM_SLOW:+$slow})\$"
if [ "${1:-}" = quick ]; then
    quick="test_base_base test_base_os test_loader_hf test_backend_chat test_backend_stops test_backend_turn"
    targets="pumice pumice-bench libpumice $quick" slice="^($(echo "$quick" | tr ' ' '|'))\$"
fi
run_musl
run_ndk
sum
