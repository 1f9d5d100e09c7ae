# Sourced by the scripts beside it. It moves to the repository's root and knows how to find Pythons
# and how to keep virtual environments.
# shellcheck shell=bash

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root" || exit
export PIP_DISABLE_PIP_VERSION_CHECK=1

# Every supported version. The first that is found makes .venv: what works on the oldest has the
# best chance to work on all.
python_versions=(3.11 3.12 3.13 3.14)

# find_python VERSION: prints the path of such a Python if there is one that can make environments.
# The real path: an active .venv, itself on PATH, may be about to be removed.
find_python() {
    local candidate
    # A pyenv shim runs only the versions its user switched on; pyenv's folders hold the others.
    for candidate in "python$1" ~/.pyenv/versions/"$1".*/bin/python; do
        "$candidate" -c 'import ensurepip, os, sys; print(os.path.realpath(sys.executable))' \
            2>/dev/null && return
    done
    return 1
}

# make_environment FOLDER PYTHON ARGUMENT...: makes FOLDER a virtual environment that holds what
# `pip install ARGUMENT...` brings. One that works and was made from the same is kept; any other is
# made anew, so that it never holds more than was asked for.
make_environment() {
    local folder="$1" python="$2"
    shift 2
    local made_from
    made_from="$root $("$python" --version) $* $(cat pyproject.toml)"
    if [[ "$(cat "$folder/made-from" 2>/dev/null)" == "$made_from" ]] &&
        "$folder/bin/python" -c 'import pip' 2>/dev/null; then
        return
    fi
    echo "Making $folder with $("$python" --version) ..."
    rm -rf "$folder"
    "$python" -m venv "$folder"
    # pip reads dependency groups from 25.1 on; the one inside an older Python is older.
    "$folder/bin/python" -m pip install -qq --upgrade 'pip>=25.1'
    "$folder/bin/python" -m pip install -qq "$@"
    printf '%s' "$made_from" >"$folder/made-from"
}

# make_venv: makes .venv, with all that running, testing and building headrace takes.
make_venv() {
    local version python
    for version in "${python_versions[@]}"; do
        if python="$(find_python "$version")"; then
            make_environment .venv "$python" --editable '.[docs,examples]' --group dev
            return
        fi
    done
    echo "headrace needs Python 3.11 or newer, with venv and pip; found none." >&2
    return 1
}
