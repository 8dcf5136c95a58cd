#!/bin/sh
# suite.sh BUILD [LAUNCHER]: runs the test programs of a build folder with the environment as it is (each through LAUNCHER where
# given), shows what failed and why something was skipped, and ends with "N passed, N failed, N skipped": cmocka's own counts,
# one for a program that has none.
set -u
build=$(cd "$1" && pwd) launcher=${2:-}
if [ -n "$launcher" ]; then
    mkdir -p "$build/launched"
    sed "s|^add_test(\([^ ]*\) \"|add_test(\1 \"$launcher\" \"|" "$build/tests/CTestTestfile.cmake" >"$build/launched/CTestTestfile.cmake"
    build=$build/launched
fi
out=$build/suite.txt
export PUMICE_CACHE="$build/cache" # neither reads nor fills the user's
rm -rf "$PUMICE_CACHE"
mkdir -p "$PUMICE_CACHE"
rm -f "$build/Testing/Temporary/LastTest.log"
[ -e "$build/CTestTestfile.cmake" ] || { echo "    FAILED: $build has no tests" && echo "0 passed, 1 failed, 0 skipped" && exit 1; }
# $only, where set, is a pattern of the programs to run.
ctest ${only:+-R "$only"} --test-dir "$build" -j"$(nproc)" --test-output-size-passed 9999999 --test-output-size-failed 9999999 >"$out" 2>&1

# ctest's screen says which programs exited with 77; its log has the output of each.
awk '
function finish() {
    if (name == "") return
    if (failed_program && !f) f = 1
    if (name in skipped_program && !s) { s = 1; reasons = reasons "    skipped: " name ": " last "\n" }
    if (!failed_program && !p && !f && !s) p = 1
    if (f) printf "    FAILED: %s%s\n%s", name, counted ? "" : " while in " running, output
    passed += p; failed += f; skipped += s; name = ""
}
function told() { match($0, /[0-9]+ test\(s\)/); return substr($0, RSTART) + 0 } # newer ones name the group before it
FNR == NR { if (/\*\*\*Skipped/ && match($0, /#[0-9]+: [^ ]+/)) { split(substr($0, RSTART, RLENGTH), part, " "); skipped_program[part[2]] = 1 } next }
/^[0-9]+\/[0-9]+ Testing: / { finish(); name = $3; p = f = s = failed_program = lines = inside = counted = 0; output = last = ""; running = "main"; next }
/^Output:$/ { inside = 1; next }
/^<end of output>/ { inside = 0; next }
/^Test Failed\./ { failed_program = 1; next }
!inside { next }
/^\[  PASSED  \] (.*: )?[0-9]+ test\(s\)/ { p += told(); next }
/^\[  FAILED  \] (.*: )?[0-9]+ test\(s\)/ { f += told(); counted = 1; next }
/^\[  SKIPPED \] (.*: )?[0-9]+ test\(s\)/ { s += told(); listed = 1; next }
/^\[ RUN      \]/ { listed = 0; last = ""; running = $4; next }
/^\[  SKIPPED \] / { if (!listed) reasons = reasons "    skipped: " name ": " $4 ": " (last == "" ? "no reason given" : last) "\n"; next }
/^\[       OK \]|^-----|^\[==========\]|^$/ { next }
{ last = $0; if (++lines <= 60) output = output "        " $0 "\n" }
END { finish(); printf "%s%d passed, %d failed, %d skipped\n", reasons, passed, failed, skipped; exit failed > 0 || passed == 0 }
' "$out" "$build/Testing/Temporary/LastTest.log"
