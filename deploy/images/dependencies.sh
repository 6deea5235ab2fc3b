#!/bin/sh
# Install what a profile's lock names into a virtual environment, each file checked against its hash.
#   dependencies.sh gateway|cpu|cuda PREFIX
# TORCH_INDEX: where the cpu profile's torch comes from, by version; empty for pip's own index. Its hash is not locked:
# PyTorch's index does not carry the builds of PyPI.
set -eu

profile=$1
prefix=$2
here=$(dirname "$(realpath "$0")")
torch="torch==2.13.0+cpu"

python3 -m venv "$here/tools"
"$here/tools/bin/pip" install --quiet --no-deps --require-hashes --disable-pip-version-check -r "$here/locks/uv.txt"
"$here/tools/bin/uv" pip install --quiet --python "$here/tools/bin/python" --no-deps --require-hashes \
  -r "$here/locks/tools.txt"

# Nothing is installed into an image later: it has no pip.
python3 -m venv --without-pip "$prefix"
if [ "$profile" = cpu ]; then
  "$here/tools/bin/pip" --python "$prefix/bin/python" install --quiet --no-deps --disable-pip-version-check \
    ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch"
fi
# Compiled here: where the root file system is read-only, no process could keep what it compiles.
"$here/tools/bin/uv" pip install --quiet --python "$prefix/bin/python" --link-mode copy --compile-bytecode \
  --no-deps --require-hashes -r "$here/locks/$profile.txt"
