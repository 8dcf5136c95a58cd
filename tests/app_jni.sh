#!/bin/sh
# app_jni.sh BUILD GENERATOR CC FLAGS: builds examples/android against an installed Pumice and lets a Java VM stream answers through it,
# the model by its path and by an open descriptor, as an app on Android has it.
# shellcheck disable=SC2086
set -u
build=$1 generator=$2 cc=$3 flags=$4
. "${0%/*}/expect.sh"
here=$(cd "${0%/*}" && pwd)
model=$here/data/tiny-qwen3
[ -z "$flags" ] || { echo "a sanitizer's library cannot come into a Java VM that runs" && exit 77; }
command -v javac >/dev/null || { echo "no javac here" && exit 77; }
JAVA_HOME=$(java -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java.home = //p')
export JAVA_HOME
[ -e "$JAVA_HOME/include/jni.h" ] || { echo "no jni.h in $JAVA_HOME" && exit 77; }
"$build/pumice" devices >"$out" 2>"$err"
[ $? != 3 ] || { cat "$err" && exit 77; }

expect 0 '*' '' cmake --install "$build" --prefix "$tmp/prefix"
expect 0 '*' '' cmake -G "$generator" -S "$here/../examples/android" -B "$tmp/jni" "-DCMAKE_PREFIX_PATH=$tmp/prefix" \
    "-DCMAKE_C_COMPILER=$cc" "-DCMAKE_C_FLAGS=-std=c11 -Wall -Wextra -Wno-unused-parameter -Werror"
expect 0 '*' '' cmake --build "$tmp/jni"
expect 0 '' '' javac -d "$tmp/jni" "$here/../examples/android/Pumice.java" "$here/../examples/android/Answer.java"
export LD_LIBRARY_PATH="$tmp/prefix/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" # of a shared libpumice
java="java -Djava.library.path=$tmp/jni -cp $tmp/jni Answer"

# The golden answer of transformers. Newer VMs may warn on stderr that native code is called.
answer="<think>
s t r=1 a w b e r=2 r=3 y . So 3.
</think>

There are 3 r's in strawberry."
same "$answer" $java "$model" "How many r's in strawberry?"
expect 0 '*' '' "$build/pumice" quantize "$model" "$tmp/model.gguf" F16
exec 3<"$tmp/model.gguf"
same "$answer" $java fd:3 "How many r's in strawberry?"
exec 3<&-
expect 1 '' "java.io.IOException: fd:999: Bad file descriptor" $java fd:999 hello
expect 1 '' "java.io.IOException: $tmp/nowhere" $java "$tmp/nowhere" hello
expect 0 '*' '*' $java "$model" "How many r's in strawberry?" 3 # the listener ends it
[ "$(head -n 1 "$out")" = "<think>" ] || bad "the answer does not begin" "$java"
! grep -q 'So 3' "$out" || bad "the listener does not end it" "$java"
exit $failed
