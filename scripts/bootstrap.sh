#!/bin/sh
# Installs what is missing on Debian or a relative of it. Does nothing when all is there.
#
#   scripts/bootstrap.sh [build] [model] [demo] [test] [format]       default: build
#
# Runs apt-get as root or through a sudo that asks nothing; otherwise prints the command to
# run and exits 1. Needs nothing beyond a bare system's sh, dpkg and apt. CUDA's compiler is not
# among it: Debian's is older than 12.8, and all but the CUDA backend does without (README).
set -eu

packages_of() {
    case $1 in
    build)  echo gcc libc6-dev make libjansson-dev ;;
    model)  echo ca-certificates python3 python3-pip ;; # how quickstart gets its model
    demo)   echo ca-certificates libopenblas-dev bible-kjv bible-kjv-text python3 python3-venv ;;
    test)   echo gcc g++ libc6-dev make git pkg-config cmake libjansson-dev libgtest-dev \
                 clang libclang-rt-dev libomp-dev libopenblas-dev abigail-tools python3 \
                 python3-venv openmpi-bin libopenmpi-dev \
                 qemu-user gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross ;;
    format) echo git clang-format python3 ;;
    *)      echo "bootstrap: unknown set '$1': build, model, demo, test or format" >&2; exit 2 ;;
    esac
}

# The sanitizers' and the fuzzer's runtime is packaged per compiler version only.
real_name() {
    [ "$1" = libclang-rt-dev ] || { echo "$1"; return; }
    version=$(apt-cache depends clang 2>/dev/null |
        sed -n 's/.*Depends: clang-\([0-9][0-9]*\)$/\1/p' | head -n 1)
    echo "libclang-rt-${version:-14}-dev"
}

wanted=
for set in "${@:-build}"; do
    wanted="$wanted $(packages_of "$set")"
done

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "bootstrap: no apt-get here; by their Debian names, nibble needs:$wanted" >&2
    exit 0
fi

have=" $(dpkg-query -W -f '${db:Status-Status}=${Package}\n' 2>/dev/null |
    sed -n -e 's/^installed=libclang-rt-[0-9]*-dev$/libclang-rt-dev/p' \
           -e 's/^installed=pkgconf$/pkg-config/p' -e 's/^installed=//p' | tr '\n' ' ')"
missing=
for package in $wanted; do
    case "$have$missing " in *" $package "*) ;; *) missing="$missing $package" ;; esac
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    root=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    root=sudo
else
    echo "bootstrap: these packages are missing, and installing them needs root. Please run:" >&2
    names=
    for package in $missing; do names="$names $(real_name "$package")"; done
    echo "    sudo apt-get update && sudo apt-get install -y --no-install-recommends$names" >&2
    exit 1
fi

apt() {
    $root env DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Retries=3 \
        -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" </dev/null >&2
}
set -- /var/lib/apt/lists/*_Packages*
[ -e "$1" ] || apt update
install() {
    names=
    for package in $missing; do names="$names $(real_name "$package")"; done
    echo "bootstrap: installing$names" >&2
    # shellcheck disable=SC2086 # a list of words
    apt install -y --no-install-recommends $names
}
install || { apt update && install; } # package lists that are too old name files that are gone
