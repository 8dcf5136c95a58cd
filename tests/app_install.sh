#!/bin/sh
# shellcheck disable=SC2086
# app_install.sh BUILD GENERATOR CC FLAGS: installs a build folder, moves what was installed, and lets a program in C11 and in C++17
# find it there, by pkg-config and by CMake; FLAGS are for compiler and linker. Their answers are transformers'.
set -u
build=$1 generator=$2 cc=$3 flags=$4
. "${0%/*}/expect.sh"
here=$(cd "${0%/*}" && pwd)
model=$here/data/tiny-qwen3
case $cc in *clang*) cxx=clang++ ;; *) cxx=c++ ;; esac

"$build/pumice" devices >"$out" 2>"$err"
[ $? != 3 ] || { cat "$err" && exit 77; }
command -v $cxx >/dev/null || { echo "no $cxx here to compile C++" && exit 77; }

mkdir "$tmp/was here"
expect 0 '*' '' cmake --install "$build" --prefix "$tmp/was here/first"
prefix="$tmp/is here"
mv "$tmp/was here/first" "$prefix"
pc=$(find "$prefix" -name pumice.pc)
lib=${pc%/pkgconfig/pumice.pc}
export PKG_CONFIG_PATH="${pc%/*}" CMAKE_PREFIX_PATH="$prefix" LD_LIBRARY_PATH="$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
! grep -rlIF -e "$tmp" -e "$build" "$prefix" >"$out" || bad "files name the folder they were made in" "cmake --install"
expect 0 "pumice $(pkg-config --modversion pumice)" '' "$prefix/bin/pumice" --version
expect 0 "--n-prompt" '' "$prefix/bin/pumice-bench" --help

# ---- headers and names ----------------------------------------------------------------------------------------------------------

warnings="-Wall -Wextra -Wpedantic -Werror"
c11="$cc -std=c11 $warnings $flags"
cxx17="$cxx -std=c++17 $warnings $flags"
for header in "$prefix"/include/pumice/*.h; do
    echo "#include <pumice/${header##*/}>" >"$tmp/alone.c"
    expect 0 '' '' $c11 -Wstrict-prototypes -fsyntax-only -I"$prefix/include" "$tmp/alone.c"
    expect 0 '' '' $cxx17 -fsyntax-only -I"$prefix/include" -x c++ "$tmp/alone.c"
done

# The library shows what the headers declare, nothing else; compilers' own names begin with __.
if [ -e "$lib/libpumice.a" ]; then nm -g --defined-only "$lib/libpumice.a"; else nm -gD --defined-only "$lib/libpumice.so"; fi |
    awk 'NF == 3 && $3 !~ /^__/ { print $3 }' | sort >"$tmp/shown"
cat "$prefix"/include/pumice/*.h | sed 's,//.*,,;/^static inline/d' | grep -oE 'pm_[a-z0-9_]+\(' | tr -d '(' | sort -u >"$tmp/declared"
diff "$tmp/declared" "$tmp/shown" >"$out" || bad "the library does not show what the headers declare" "nm libpumice"

# ---- a program ------------------------------------------------------------------------------------------------------------------

# is_right PROGRAM: golden cases 1 and 4.
golden 1 greedy | tr ' ' '\n' | head -n 16 >"$tmp/one"
golden 4 greedy | tr ' ' '\n' | head -n 16 >"$tmp/four"
is_right() {
    same "<think>
s t r=1 a w b e r=2 r=3 y . So 3.
</think>

There are 3 r's in strawberry.
$(paste -d ' ' "$tmp/one" "$tmp/four")" "$1" "$model" "How many r's in strawberry?" "Reverse the word vulkan."
}

eval "expect 0 '' '' $c11 \"$here/example.c\" -o \"$tmp/c\" $(pkg-config --static --cflags --libs pumice)"
is_right "$tmp/c"
eval "expect 0 '' '' $cxx17 -x c++ \"$here/example.c\" -x none -o \"$tmp/c++\" $(pkg-config --static --cflags --libs pumice)"
is_right "$tmp/c++"

# with_cmake LANGUAGE SUFFIX STANDARD: a project of that language alone.
with_cmake() {
    mkdir "$tmp/$1 project"
    cp "$here/example.c" "$tmp/$1 project/example.$2"
    cat >"$tmp/$1 project/CMakeLists.txt" <<PROJECT
cmake_minimum_required(VERSION 3.20)
project(example LANGUAGES $1)
find_package(pumice $(pkg-config --modversion pumice) REQUIRED)
add_executable(example example.$2)
target_compile_features(example PRIVATE $3)
target_link_libraries(example PRIVATE pumice::pumice)
PROJECT
    expect 0 '*' '' cmake -G "$generator" -S "$tmp/$1 project" -B "$tmp/$1 build" -DCMAKE_C_COMPILER=$cc -DCMAKE_CXX_COMPILER=$cxx \
        "-DCMAKE_$1_FLAGS=$warnings $flags" --no-warn-unused-cli
    expect 0 '*' '' cmake --build "$tmp/$1 build"
    is_right "$tmp/$1 build/example"
}
with_cmake C c c_std_11
with_cmake CXX cpp cxx_std_17
expect 1 '' "nowhere" "$tmp/c" "$tmp/nowhere" a b
exit $failed
