#!/bin/sh
# Build the wheels of aloraserve and its vLLM plugin, without the network, and install them beside their dependencies.
#   application.sh SOURCE PREFIX
set -eu

source=$1
prefix=$2
here=$(dirname "$(realpath "$0")")

mkdir -p "$here/wheels"
"$here/tools/bin/pip" wheel --quiet --no-deps --no-build-isolation --no-index --disable-pip-version-check \
  --wheel-dir "$here/wheels" "$source/platform/vllm-alora" "$source"
"$here/tools/bin/uv" pip install --quiet --python "$prefix/bin/python" --link-mode copy --compile-bytecode \
  --no-deps --no-index "$here"/wheels/*.whl
"$prefix/bin/aloraserve" --version
