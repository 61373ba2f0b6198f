#!/bin/bash
# Prints the path of a Python that has the packages of scripts/oracles/requirements.txt, or of
# another such file ($1), in an environment in the user's cache that is made once for each content
# of that file.
set -euo pipefail
cd "$(dirname "$0")/.."
wanted=${1:-scripts/oracles/requirements.txt}
cache=${NIBBLE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/nibble}
env=$cache/python-$(cat "$wanted" - <<<"$(python3 --version)" | sha256sum | cut -c 1-12)
if ! [ -x "$env/bin/python" ]; then # once, though several tests may want it at the same time
    mkdir -p "$cache"
    exec 9>"$cache/python.lock"
    ! command -v flock >/dev/null || flock 9
fi
if ! [ -x "$env/bin/python" ]; then
    rm -rf "$env.new"
    python3 -m venv "$env.new" >&2
    for try in 1 2 3; do
        "$env.new/bin/python" -m pip install --quiet --disable-pip-version-check \
            --only-binary=:all: --no-deps --require-hashes --requirement "$wanted" >&2 && break
        [ "$try" = 3 ] && { echo "python_env: the packages of $wanted cannot be had" >&2; exit 1; }
        sleep $((try * 5))
    done
    mv "$env.new" "$env"
fi
echo "$env/bin/python"
