# shellcheck shell=sh
# Sourced by run.sh, test.sh and tests/*.sh, which set $root: installs what is missing, fetches tools that this distribution
# has too old or not at all, configures, builds and counts. One line a step on the terminal, the noise in $log.
: "${root:?}"
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/pumice-build
log=$root/build/setup.log
mkdir -p "$root/build" "$cache"

say() {
    printf '%s\n' "$*" >&2
}

die() {
    say "${0##*/}: $*"
    exit 1
}

# step "what it does" COMMAND...: a failure shows the end of the log and stops.
step() {
    say "-- $1"
    shift
    : >"$log"
    "$@" >>"$log" 2>&1 </dev/null || {
        tail -n 30 "$log" >&2
        die "failed: $* (all of its output: $log)"
    }
}

# ---- packages ---------------------------------------------------------------------------------------------------------

# has PROBE: is the thing itself here, however it came?
has() {
    case $1 in
    command:*) command -v "${1#*:}" ;;
    header:*) echo "#include <${1#*:}>" | cc -E -x c - ;;
    library:*) PATH=$PATH:/sbin:/usr/sbin ldconfig -p | grep -F "${1#*:} " ;;
    package:*) pkg-config --exists "${1#*:}" ;;
    file:*) [ -e "${1#*:}" ] ;;
    driver:) find /usr/share/vulkan/icd.d /usr/local/share/vulkan/icd.d /etc/vulkan/icd.d "${HOME:-/}/.local/share/vulkan/icd.d" \
        -name '*.json' 2>/dev/null | grep . || [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] ;;
    esac >/dev/null 2>&1
}

install_debs() {
    as_root=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "not root and no sudo: as root, run: apt-get install $*"
        as_root=sudo
    fi
    step "apt-get update" $as_root apt-get -o DPkg::Lock::Timeout=600 update
    step "apt-get install $*" $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -o DPkg::Lock::Timeout=600 install -y --no-install-recommends "$@"
}

# need "PROBE DEBIAN USUAL"...: installs the Debian packages whose probe fails. Where there is no apt, says what is missing by
# its usual name and goes on: the build will tell if it was needed.
need() {
    debs='' others=''
    for row; do
        # shellcheck disable=SC2086
        set -- $row
        has "$1" || debs="$debs $2" others="$others ${3:-$2}"
    done
    [ -n "$debs" ] || return 0
    if command -v apt-get >/dev/null; then
        # shellcheck disable=SC2086
        install_debs $debs
    else
        say "-- no apt here; please install what this Linux calls:$others"
    fi
}

need_to_build() {
    need "command:cc build-essential gcc" "command:cmake cmake" "command:ninja ninja-build ninja" \
        "command:pkg-config pkg-config pkgconf" "command:glslangValidator glslang-tools glslang" \
        "header:vulkan/vulkan.h libvulkan-dev vulkan-headers" "library:libvulkan.so.1 libvulkan1 vulkan-loader" \
        "header:volk.h libvulkan-volk-dev volk" "package:libcjson libcjson-dev cjson" "package:libpcre2-8 libpcre2-dev pcre2" \
        "package:libutf8proc libutf8proc-dev utf8proc" "package:libedit libedit-dev libedit" "driver: mesa-vulkan-drivers a-Vulkan-driver-(Mesa)"
}

# can_have ROW...: need, for what only a part of the tests takes: where it cannot be installed it says so, and that part is skipped.
can_have() {
    (need "$@")
}

# ---- things unpacked into the cache, never installed -------------------------------------------------------------------

# unpack NAME SUITE all|only|source PACKAGE...: unpacks packages of a Debian suite into $cache/NAME, once. With "all" everything that
# they depend on comes along, the C library included, and $cache/NAME/with PROGRAM ARGS... runs any program on these libraries. With
# "source" it is their sources with Debian's patches, each in a folder PACKAGE-VERSION.
# Needs apt and a network, no root; returns 1 without, and does not try again for an hour: a second ./run.sh must not wait for it.
# $arch, where set, is the architecture to take them of ("with" then runs nothing here).
unpack() {
    dest=$cache/$1 suite=$2 how=$3 keys=/usr/share/keyrings/debian-archive-keyring.gpg
    shift 3
    [ ! -d "$dest" ] || return 0
    [ -z "$(find "$dest.missing" -mmin -60 2>/dev/null)" ] || return 1
    command -v apt-get >/dev/null || return 1
    can_have "file:$keys debian-archive-keyring" || return 1
    [ "$how" != source ] || can_have "command:dpkg-source dpkg-dev" || return 1
    say "-- fetching $* of Debian $suite into $dest"
    part=$(mktemp -d "$cache/part.XXXXXX")
    if fetch_debs "$@" >"$log" 2>&1; then
        mv "$part/root" "$dest"
        rm -rf "$part"
    else
        tail -n 5 "$log" >&2
        rm -rf "$part"
        : >"$dest.missing"
        return 1
    fi
}

# The work of unpack: an apt of its own in $part, with one suite and nothing installed.
fetch_debs() {
    mkdir -p "$part/lists/partial" "$part/cache/archives/partial" "$part/debs" "$part/root"
    [ "$how" = source ] && kind=deb-src || kind=deb
    echo "$kind [signed-by=$keys] http://deb.debian.org/debian $suite main" >"$part/sources.list"
    : >"$part/status"
    cat >"$part/apt.conf" <<CONF
Dir::State "$part"; Dir::State::lists "$part/lists"; Dir::State::status "$part/status"; Dir::Cache "$part/cache";
Dir::Etc::sourcelist "$part/sources.list"; Dir::Etc::sourceparts "-"; Dir::Etc::preferencesparts "-"; APT::Sandbox::User "root";
${arch:+APT::Architecture "$arch";}
CONF
    export APT_CONFIG="$part/apt.conf"
    fetch_with_apt "$@"
    fetched=$?
    unset APT_CONFIG
    [ $fetched = 0 ] || return 1
    [ "$how" != source ] || return 0
    for deb in "$part"/debs/*.deb; do
        dpkg -x "$deb" "$part/root" || return 1
    done
    rm -rf "$part/root/usr/share/doc" "$part/root/usr/share/man" "$part/root/usr/share/locale"
    [ "$how" = only ] || write_with
}

fetch_with_apt() {
    apt-get update -qq || return 1
    if [ "$how" = source ]; then
        (cd "$part/root" && apt-get source -qq "$@")
    elif [ "$how" = all ]; then
        apt-get install -y -qq --download-only --no-install-recommends "$@" && mv "$part"/cache/archives/*.deb "$part/debs"
    else
        (cd "$part/debs" && apt-get download -qq "$@")
    fi
}

write_with() {
    cat >"$part/root/with" <<'WITH'
#!/bin/sh
# with PROGRAM ARGS...: runs it on the C library and the libraries unpacked here. Debian 13 has them all in usr/lib, Debian 12 some
# in lib.
here=$(cd "${0%/*}" && pwd)
program=$(command -v "$1")
shift
ld=$(ls "$here"/lib/*/ld-linux*.so.* "$here"/usr/lib/*/ld-linux*.so.* 2>/dev/null | head -n 1)
libs=$(ls -d "$here"/lib/*-linux-gnu* "$here"/usr/lib/*-linux-gnu* "$here"/usr/lib/llvm-*/lib 2>/dev/null | tr '\n' ':')
exec "$ld" --library-path "${libs%:}" "$program" "$@"
WITH
    chmod +x "$part/root/with"
}

# Sets $glslang to a compiler and $headers to a folder of Vulkan headers (empty: the system's) that know every extension our kernels
# can use. Where newer ones cannot be had it stays at the system's, and the build says which kernels it left out.
find_tools() {
    find_glslang
    headers=
    if ! printf '#include <vulkan/vulkan.h>\n#ifndef VK_KHR_cooperative_matrix\n#error\n#endif\n' | cc -E -x c - >/dev/null 2>&1 &&
        unpack vulkan-headers-1.4 trixie only libvulkan-dev libvulkan-volk-dev; then
        headers=$cache/vulkan-headers-1.4/usr/include
    fi
}

# The system's glslang from version 15 on, else Debian trixie's 15.2.
find_glslang() {
    glslang=$(command -v glslangValidator || command -v glslang || true)
    version=$("${glslang:-false}" --version 2>/dev/null | sed -n '1s/.*:\([0-9]*\)\..*/\1/p')
    [ "${version:-0}" -lt 15 ] || return 0
    newer=$cache/glslang-15/glslangValidator
    if [ ! -x "$newer" ] && unpack glslang-15 trixie all glslang-tools; then
        # shellcheck disable=SC2016
        printf '#!/bin/sh\nexec "${0%%/*}/with" "${0%%/*}/usr/bin/glslangValidator" "$@"\n' >"$newer"
        chmod +x "$newer"
    fi
    if "$newer" --version >/dev/null 2>&1; then
        glslang=$newer
    else
        say "-- no glslang 15 to be had: going on with ${version:-none}, without the kernels that need the newer one"
    fi
}

# SwiftShader, the software Vulkan of Debian's chromium: only its library and the driver file stay.
fetch_swiftshader() {
    swiftshader=$cache/swiftshader/vk_swiftshader_icd.json
    [ ! -e "$swiftshader" ] || return 0
    unpack swiftshader bookworm only chromium-common || return 1
    mv "$cache"/swiftshader/usr/lib/chromium/*vk_swiftshader* "$cache/swiftshader/"
    rm -rf "$cache/swiftshader/usr" "$cache/swiftshader/etc"
}

# fetch_mesa NAME SUITE: another Mesa, with the validation layer of the same suite.
fetch_mesa() {
    unpack "$1" "$2" all mesa-vulkan-drivers libvulkan1 vulkan-validationlayers
}

# ---- building ---------------------------------------------------------------------------------------------------------

# build DIR CMAKE-OPTIONS...: configures when the options are not those of last time, and builds what is out of date; $targets, where
# set, are all of it that is wanted.
build() {
    dir=$1
    shift
    set -- "$@" -DGLSLANG="$glslang" ${headers:+-DVulkan_INCLUDE_DIR="$headers" -DVOLK_DIR="$headers"}
    mkdir -p "$dir"
    if [ "$(cat "$dir/.options" 2>/dev/null)" != "$*" ] || [ ! -e "$dir/build.ninja" ]; then
        step "configuring ${dir##*/}" cmake -G Ninja -S "$root" -B "$dir" "$@"
        echo "$*" >"$dir/.options"
    fi
    # shellcheck disable=SC2086
    step "building ${dir##*/}" ninja -C "$dir" ${targets:-}
}

unpack_sources() {
    unpack sources-bookworm bookworm source cjson pcre2 utf8proc cmocka
}

# static_libraries PREFIX CMAKE-OPTIONS...: what we link for a system other than this, from Debian's sources, static, once; the licence of
# each lies where vcpkg puts it: PREFIX/share/NAME/copyright.
static_libraries() {
    prefix=$1
    shift
    [ ! -e "$prefix/done" ] || return 0
    unpack_sources || return 1
    rm -rf "$prefix"
    for name in cjson pcre2 utf8proc cmocka; do
        say "-- building $name into $prefix"
        static_library "$@" >"$log" 2>&1 || { tail -n 20 "$log" >&2 && return 1; }
    done
    : >"$prefix/done"
}

# Each takes its own of these options. CMake 4 refuses what some of them say of CMake's versions: the last one.
static_library() {
    source=$(echo "$cache/sources-bookworm/$name"-[0-9]*.[0-9]*/)
    cmake -G Ninja -S "$source" -B "$prefix/build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DCMAKE_INSTALL_LIBDIR=lib \
        -DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DENABLE_CJSON_TEST=OFF -DENABLE_CUSTOM_COMPILER_FLAGS=OFF \
        -DPCRE2_BUILD_TESTS=OFF -DPCRE2_BUILD_PCRE2GREP=OFF -DPCRE2_SUPPORT_UNICODE=ON -DWITH_EXAMPLES=OFF -DUNIT_TESTING=OFF \
        -DCMAKE_POLICY_VERSION_MINIMUM=3.5 "$@" && ninja -C "$prefix/build" install && mkdir -p "$prefix/share/$name" &&
        cp "$source/debian/copyright" "$prefix/share/$name/copyright" && rm -rf "$prefix/build"
}

# ---- counting ---------------------------------------------------------------------------------------------------------

# A script that proves something ends with the line "N passed, N failed, N skipped"; these add such lines up.
totals=$(mktemp)
trap 'rm -f "$totals" "$totals.out" "$totals.err"' EXIT

# tally PASSED FAILED SKIPPED
tally() {
    echo "$1 passed, $2 failed, $3 skipped" >>"$totals"
}

skip() {
    echo "    skipped: $1"
    tally 0 0 1
}

# count COMMAND...: its last line goes to the totals; without such a line it counts as one failure.
count() {
    "$@" | tee "$totals.out" || true
    tail -n 1 "$totals.out" | grep '^[0-9]* passed, [0-9]* failed, [0-9]* skipped$' >>"$totals" || {
        echo "    FAILED: $* ended without a count"
        tally 0 1 0
    }
}

# Prints the sum; succeeds when something ran and nothing failed.
sum() {
    awk '{ p += $1; f += $3; s += $5 } END { printf "%d passed, %d failed, %d skipped\n", p, f, s; exit f > 0 || p == 0 }' "$totals"
}
