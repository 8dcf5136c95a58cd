#!/bin/sh
# windows.sh [quick|whole]: cross-builds for Windows with mingw-w64 and runs suites under Wine, whose Vulkan is that of this machine:
# lavapipe. Base, loader, host, two kernels, and the programs, also in a console; then the .zip, in a Windows of its own that has
# nothing else. "quick": two kernels and pumice run alone, without the .zip; "whole": all suites. Ends with "N passed, N failed, N skipped".
# Wine offers Vulkan 1.0 without a display, 1.3 with one: Xvfb. What Pumice is linked to is built from Debian's sources, static.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/tests/setup.sh"
build=$root/build-windows
lavapipe=$(ls /usr/share/vulkan/icd.d/lvp_icd*.json 2>/dev/null | head -n 1)
export PM_MINGW_PREFIX="$cache/mingw"

# The licence of mingw-w64's own code, which is in every program, lies beside those of the libraries.
libraries() {
    static_libraries "$PM_MINGW_PREFIX" -DCMAKE_TOOLCHAIN_FILE="$root/tests/mingw.cmake" -DPCRE2_SUPPORT_JIT=ON -DWITH_STATIC_LIB=ON || return 1
    rm -f "$PM_MINGW_PREFIX/lib/libcmocka.dll.a" # the other is static
    mkdir -p "$PM_MINGW_PREFIX/share/mingw-w64"
    cp /usr/share/doc/mingw-w64-x86-64-dev/copyright "$PM_MINGW_PREFIX/share/mingw-w64"
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

has_licences() {
    for name in LICENSE licences/cjson.txt licences/pcre2.txt licences/utf8proc.txt licences/volk.txt licences/mingw-w64.txt; do
        grep -qiE 'permission|redistribution' "$made"/pumice-*/share/doc/pumice/$name || { echo "$name" && return 1; }
    done
}

try_package() {
    made=$build/packages
    rm -rf "$made" "$build/bare"
    passes "cpack -G ZIP" sh -c 'cd "$1" && cpack -G ZIP -B "$2" && cd "$2" && cmake -E tar xf *.zip' sh "$build" "$made"
    cp -a "$cache/wine" "$build/bare"
    rm "$build/bare/dosdevices/z:" # nothing of this machine's
    cp -r "$made"/pumice-*/bin "$build/bare/drive_c/pumice" && cp -r "$root/tests/data/tiny-qwen3" "$build/bare/drive_c/模型 ü"
    passes "a licence is not in the .zip" has_licences
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

case ${1:-} in
quick) slice='^(op_(gather|embed)|app_run)$' ;;
whole) slice=. ;;
*) slice='^(test_base_.*|test_loader_.*|test_host_.*|op_(gather|embed)|app_(cli|run|chat|info|console))$' ;;
esac
if [ "$(dpkg --print-architecture 2>/dev/null)" != amd64 ]; then
    skip "Windows: Debian on amd64 is needed"
    sum
    exit
fi
if ! can_have "command:x86_64-w64-mingw32-gcc gcc-mingw-w64-x86-64-win32" "command:wine wine wine64" "command:Xvfb xvfb" "command:git git" ||
    [ -z "$lavapipe" ] || ! libraries || ! unpack vulkan-headers-1.4 trixie only libvulkan-dev libvulkan-volk-dev; then
    skip "Windows: mingw-w64, wine, Xvfb, lavapipe and Debian's sources are needed: a network, and root or sudo"
    sum
    exit
fi
find_tools
headers=$cache/vulkan-headers-1.4/usr/include # never those of /usr/include, which has the C library's beside them
export CFLAGS=-pedantic-errors
if ! (build "$build" -DPM_TESTS=ON -DPM_WERROR=ON "-DCMAKE_C_FLAGS_RELWITHDEBINFO=-O2 -g" -DCMAKE_TOOLCHAIN_FILE="$root/tests/mingw.cmake" \
    -DCMAKE_CROSSCOMPILING_EMULATOR=wine -DPM_TEST_TIMEOUT=3600); then
    echo "    FAILED: the cross build"
    tally 0 1 0
    sum
    exit
fi
tally 1 0 0
passes "vcpkg.json and CMakeLists.txt do not look for the same" cmake -P "$root/tests/vcpkg.cmake"

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

only=${only:-$slice} count "$root/tests/suite.sh" "$build"
wineserver -k
[ "${1:-}" = quick ] || try_package
sum
