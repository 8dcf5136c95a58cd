#!/bin/sh
# windows.sh [whole]: cross-builds for Windows with mingw-w64 and runs suites under Wine, whose Vulkan is that of this machine: lavapipe.
# Base, loader, host, two kernels, and the programs, also in a console; "whole": all there are. Then the .zip, in a Windows of its own
# that has nothing else. Ends with "N passed, N failed, N skipped".
# Wine offers Vulkan 1.0 without a display, 1.3 with one: Xvfb. What Pumice is linked to is built from Debian's sources, static.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/tests/setup.sh"
build=$root/build-windows
lavapipe=$(ls /usr/share/vulkan/icd.d/lvp_icd*.json 2>/dev/null | head -n 1)
export PM_MINGW_PREFIX="$cache/mingw"

# library FOLDER OPTIONS...: builds one of Debian's sources into $PM_MINGW_PREFIX.part.
library() {
    source=$(echo "$cache/mingw-sources/$1"-*/)
    made=$(mktemp -d "$cache/part.XXXXXX")
    shift
    PM_MINGW_PREFIX=$PM_MINGW_PREFIX.part cmake -G Ninja -S "$source" -B "$made" -DCMAKE_TOOLCHAIN_FILE="$root/tests/mingw.cmake" \
        -DCMAKE_INSTALL_PREFIX="$PM_MINGW_PREFIX.part" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
        -DCMAKE_POLICY_VERSION_MINIMUM=3.5 "$@" && ninja -C "$made" install
    built=$?
    rm -rf "$made"
    return $built
}

libraries() {
    [ ! -d "$PM_MINGW_PREFIX" ] || return 0
    unpack mingw-sources bookworm source cjson pcre2 utf8proc cmocka || return 1
    say "-- building libraries for Windows into $PM_MINGW_PREFIX"
    rm -rf "$PM_MINGW_PREFIX.part"
    (library cjson -DENABLE_CJSON_TEST=OFF -DENABLE_CUSTOM_COMPILER_FLAGS=OFF && library utf8proc -DUTF8PROC_INSTALL=ON &&
        library pcre2 -DPCRE2_SUPPORT_JIT=ON -DPCRE2_BUILD_PCRE2GREP=OFF -DPCRE2_BUILD_TESTS=OFF &&
        library cmocka -DWITH_STATIC_LIB=ON -DWITH_EXAMPLES=OFF -DUNIT_TESTING=OFF) >"$log" 2>&1 || { tail -n 20 "$log" && return 1; }
    rm -f "$PM_MINGW_PREFIX.part/lib/libcmocka.dll.a" # the other is static
    mv "$PM_MINGW_PREFIX.part" "$PM_MINGW_PREFIX"
}

# A Windows as its first start leaves it, kept in the cache.
bare_windows() {
    [ ! -d "$cache/wine" ] || return 0
    rm -rf "$cache/wine.part"
    WINEPREFIX=$cache/wine.part wine wineboot -i >"$log" 2>&1 && WINEPREFIX=$cache/wine.part wineserver -w &&
        mv "$cache/wine.part" "$cache/wine"
}

# passes "what" COMMAND...
passes() {
    what=$1
    shift
    if "$@" >"$totals.out" 2>&1; then
        tally 1 0 0
    else
        head -n 10 "$totals.out"
        echo "    FAILED: $what"
        tally 0 1 0
    fi
}

# ---- the package --------------------------------------------------------------------------------------------------------

only_system_dlls() {
    for program in "$made"/*/bin/*.exe; do
        x86_64-w64-mingw32-objdump -p "$program" | sed -n 's/.*DLL Name: //p'
    done | sort -uf >"$made/dlls"
    ! grep -viE '^(kernel32|msvcrt|shell32|advapi32|ws2_32|user32)\.dll$' "$made/dlls"
}

# answers FOLDER COMMAND...: a model in a folder whose name is in no code page.
answers() {
    "$@" --version | grep -q '^pumice .*commit' && "$@" run 'C:\模型 ü' -p "How many r's in strawberry?" --temp 0 | grep "There are 3 r's"
}

no_loader_is_told() {
    WINEDLLOVERRIDES="vulkan-1=;$WINEDLLOVERRIDES" "$@" devices 2>&1 | grep 'no Vulkan loader (libvulkan.so.1, vulkan-1.dll)'
}

try_package() {
    made=$build/packages
    rm -rf "$made" "$build/bare"
    passes "cpack -G ZIP" sh -c 'cd "$1" && cpack -G ZIP -B "$2" && cd "$2" && cmake -E tar xf *.zip' sh "$build" "$made"
    cp -a "$cache/wine" "$build/bare"
    rm "$build/bare/dosdevices/z:" # nothing of this machine's
    cp -r "$made"/pumice-*/bin "$build/bare/drive_c/pumice" && cp -r "$root/tests/data/tiny-qwen3" "$build/bare/drive_c/模型 ü"
    passes "the .zip needs DLLs that Windows lacks" only_system_dlls
    export WINEPREFIX="$build/bare"
    unset PUMICE_CACHE
    cd "$build/bare/drive_c" || exit 1
    passes "the .zip does not run on a bare Windows" answers wine 'C:\pumice\pumice.exe'
    passes "the caches are not in LOCALAPPDATA" test -d "$build/bare/drive_c/users/$(id -un)/AppData/Local/pumice"
    passes "no vulkan-1.dll: not told" no_loader_is_told wine 'C:\pumice\pumice.exe'
    wineserver -k
    cd "$root" && rm -rf "$build/bare"
}

# ---- all of it ----------------------------------------------------------------------------------------------------------

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null || [ "$(dpkg --print-architecture)" != amd64 ]; then
    skip "Windows: root, Debian on amd64 and a network are needed"
    sum
    exit
fi
need "command:x86_64-w64-mingw32-gcc gcc-mingw-w64-x86-64" "command:wine wine64" "command:Xvfb xvfb" "command:git git"
if ! command -v wine >/dev/null || [ -z "$lavapipe" ] || ! libraries ||
    ! unpack vulkan-headers-1.4 trixie only libvulkan-dev libvulkan-volk-dev; then
    skip "Windows: mingw-w64, wine, lavapipe and Debian's sources cannot be had"
    sum
    exit
fi
find_tools
headers=$cache/vulkan-headers-1.4/usr/include # never those of /usr/include, which has the C library's beside them
export CFLAGS=-pedantic-errors
if ! (build "$build" -DPM_TESTS=ON -DPM_WERROR=ON "-DCMAKE_C_FLAGS_RELWITHDEBINFO=-O2 -g" -DCMAKE_TOOLCHAIN_FILE="$root/tests/mingw.cmake" \
    -DCMAKE_CROSSCOMPILING_EMULATOR=wine); then
    echo "    FAILED: the cross build"
    tally 0 1 0
    sum
    exit
fi
tally 1 0 0

# The display is asked for by number, which Xvfb writes to descriptor 3. No debugger may open where a program crashes on purpose.
Xvfb -displayfd 3 -screen 0 640x480x16 3>"$totals.display" >/dev/null 2>&1 &
xvfb=$!
trap 'kill $xvfb; rm -f "$totals" "$totals.out" "$totals.err" "$totals.display"' EXIT
while [ ! -s "$totals.display" ]; do sleep 0.1; done
DISPLAY=:$(cat "$totals.display")
export DISPLAY LC_ALL=C.UTF-8 PM_WINDOWS=1 WINEDEBUG=-all WINEDLLOVERRIDES="mscoree,mshtml,winedbg.exe,winemenubuilder.exe=" WINEPREFIX="$cache/wine" \
    VK_DRIVER_FILES="$lavapipe" VK_ICD_FILENAMES="$lavapipe"
bare_windows || { skip "Wine does not start" && sum && exit; }
wineserver -p >/dev/null 2>&1
wine cmd /c exit >/dev/null 2>&1 # starts what stays: with the streams of a test that would never end

slice='^(test_base_.*|test_loader_.*|test_host_.*|op_(gather|embed)|app_(cli|run|chat|info|console))$'
[ "${1:-}" != whole ] || slice=.
only=${only:-$slice} count "$root/tests/suite.sh" "$build"
wineserver -k
try_package
sum
