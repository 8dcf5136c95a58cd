#!/bin/sh
# The referee of the design's "Does a line know its room?": each rule is a git grep that must find nothing. What stands behind //
# is free. Prints the offending lines and ends with "N passed, N failed, N skipped".
cd "$(dirname "$0")/.." || exit 1
passed=0 failed=0

# rule "what it says" [-i] PATTERN PATHS...
rule() {
    says=$1 flag=-E
    shift
    [ "$1" != -i ] || { flag=-iE && shift; }
    pattern=$1
    shift
    if git grep --untracked -nI $flag -e "^([^/]|/[^/])*($pattern)" -- "$@" ':!*.md' ':!*.txt' ':!*.svg'; then
        echo "    FAILED: $says"
        failed=$((failed + 1))
    else
        passed=$((passed + 1))
    fi
}

vendor='nvidia|amd|radv|amdvlk|intel|anv|adreno|qualcomm|turnip|mali|apple|moltenvk|lavapipe|llvmpipe|swiftshader|mesa'

rule "Vulkan is said in host only, not in its op_*.c nor in its public headers" '\b(Vk|vk|VK_)[A-Z]|\b(vulkan|volk|vk)\.h' \
    loader backend app bench shaders 'host/op_*' host/host.h host/ops.h host/caps.h 'host/base.*' 'host/os*' 'host/program_*'
rule "cJSON is said in loader, app, bench and tests only" 'cJSON' host backend shaders
# limits.c is a table of other people's devices for --limits; no choice hangs on a name in it.
# power.c opens files that the system calls by such names, whoever made the device.
rule "vendors and drivers are named in host/caps.c and limits.c only" -i "\\b($vendor)\\b" host loader backend app bench shaders \
    ':!host/caps.c' ':!host/limits.c' ':!bench/power.c'
rule "models are named in loader and app only, the rest knows dimensions" -i '\b(qwen|llama|mistral|gemma)' host backend shaders
rule "loader includes its own headers and host/base.h" '#include "(host/([^b]|b[^a])|backend|app|bench|shaders)' loader
rule "host includes nothing of loader, backend, app" '#include "(loader|backend|app|bench)/' host shaders
rule "backend includes of the others loader/loader.h and config.h, host/base.h, host.h, ops.h, device.h, status.h" \
    '#include "(app/|bench/|shaders/|loader/([^lc]|l[^o])|host/(caps|vk|[^bdhos]))' backend
rule "public headers include each other only" '#include "(host/[^ds]|loader/[^c]|backend/[^t]|app|bench|shaders)' \
    backend/pumice.h backend/text.h host/device.h host/status.h loader/config.h
rule "app and bench include of the others backend/pumice.h, host and loader faces" '#include "(host/(caps|vk)|shaders/)' app bench
# Which of os_posix.c and os_windows.c is compiled CMake says, so that neither is full of the other's lines.
rule "operating systems are told apart in host/os_*.c and program_*.c only" '\b(_WIN32|_MSC_VER|__ANDROID__|__linux__|__APPLE__|__unix__)\b' \
    host loader backend app bench shaders ':!host/os_*.c' ':!host/program_*.c'
rule "environment variables are read in host/caps.c and host/os_*.c" '\b(getenv|setenv|putenv)\b' \
    host loader backend bench shaders ':!host/caps.c' ':!host/os_*.c'
rule "quantized bits are decoded in weights.glsl, pack.c and dequant.c" '\bnibble|& *0x0?[fF]\b|& *15u?\b|PM_Q[0-9]' backend app
rule "memory comes from pm_malloc and its like" '\b(malloc|calloc|realloc|free|strdup|strndup|aligned_alloc)\(' \
    host loader backend app bench ':!host/base.c'
rule "the clock is pm_now_ns" '\b(clock_gettime|gettimeofday|clock|time)\(' host loader backend app bench ':!host/os*.c'
rule "terminals are known to app only" '\bisatty|\\033\[|\\x1b\[|\\e\[' host loader backend bench shaders ':!host/os_*.c'
rule "no GNU extension outside host/base.h" '__attribute__|__builtin_|\btypeof\b|__typeof__' host loader backend app bench ':!host/base.h'

# This holds behind // too.
if git grep --untracked -nIE -e "$(printf '\t| $|\r')" -- '*.c' '*.h' '*.comp' '*.glsl' '*.sh' '*.txt' '*.md' ':!tests/data' ':!tests/fuzz'; then
    echo "    FAILED: no tabs, no trailing blanks, no carriage returns"
    failed=$((failed + 1))
else
    passed=$((passed + 1))
fi
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
