#!/bin/sh
# arm.sh [quick]: cross-builds for 64-bit Arm and runs suites under qemu-user, on lavapipe of Debian 13's arm64 packages: base, loader,
# host and kernels with two types of weights; "quick": of these base's and a kernel; with PM_SLOW all types, and the forward pass against
# transformers' goldens. Ends with "N passed, N failed, N skipped". qemu takes some 20 times as long as a processor; what starts
# programs of its own cannot run there.
# Not Debian 12's Mesa: its LLVM 15 dies on arm64 over kernels that unpack halves ("Cannot select: AArch64ISD::VLSHR").
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/tests/setup.sh"
build=$root/build-arm64
sys=$cache/arm64
libs=$sys/usr/lib/aarch64-linux-gnu

slice='^(test_base_.*|test_loader_(bad|dequant|hf|models)|test_host_(command|device|kernel|limits|memory)|op_(adjust|embed|gather))$'
whole='^(test_base_.*|test_loader_.*|test_host_[^s].*|op_.*|test_backend_(forward|session|sampler|tokenizer))$'
[ -z "${PM_SLOW:-}" ] || slice=$whole
if [ "${1:-}" = quick ]; then
    quick="test_base_base test_host_device op_gather"
    targets="pumice pumice-bench $quick" slice="^($(echo "$quick" | tr ' ' '|'))\$"
fi

if ! can_have "command:aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu" "file:/usr/aarch64-linux-gnu/include/stdio.h libc6-dev-arm64-cross" \
    "command:qemu-aarch64 qemu-user" || ! command -v aarch64-linux-gnu-gcc >/dev/null || ! command -v qemu-aarch64 >/dev/null ||
    ! arch=arm64 unpack arm64 trixie all libc6-dev libvulkan1 mesa-vulkan-drivers libcjson-dev libpcre2-dev libutf8proc-dev \
        libedit-dev libcmocka-dev; then
    skip "Arm: a cross compiler, qemu-user, apt, a network and Debian's keys are needed"
    sum
    exit
fi
[ -e "$sys/lib" ] || ln -s usr/lib "$sys/lib" # what base-files does

# Debian's cross compiler prefers its own C library, which may be older than that of the packages: -L.
find_tools
export PKG_CONFIG_SYSROOT_DIR="$sys" PKG_CONFIG_LIBDIR="$libs/pkgconfig"
if (build "$build" -DPM_TESTS=ON -DPM_WERROR=ON "-DCMAKE_C_FLAGS_RELWITHDEBINFO=-O2 -g" -DCMAKE_SYSTEM_NAME=Linux \
    -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_SYSROOT="$sys" \
    -DCMAKE_EXE_LINKER_FLAGS="-L$libs" -DCMAKE_FIND_ROOT_PATH="$sys" -DCMAKE_FIND_ROOT_PATH_MODE_PROGRAM=NEVER \
    "-DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64;-L;$sys" -DPM_TEST_TIMEOUT=7200); then
    tally 1 0 0
else
    echo "    FAILED: the cross build"
    tally 0 1 0
    sum
    exit
fi

# Without LLVM's optimizations, which are most of what a kernel costs here.
export VK_DRIVER_FILES=/usr/share/vulkan/icd.d/lvp_icd.json GALLIVM_PERF=nopt PM_EMULATED=1
[ "$slice" = "$whole" ] || export PM_TYPES=F16,Q4_K
only=${only:-$slice} count "$root/tests/suite.sh" "$build"
sum
