#!/bin/sh
# Write what is installed, with versions and licences, as a CycloneDX list: PREFIX/sbom.cdx.json.
#   inventory.sh PREFIX
# Debian's packages are not in it: `docker buildx build --sbom=true` or `syft IMAGE` lists those too.
set -eu

prefix=$1
here=$(dirname "$(realpath "$0")")

"$here/tools/bin/cyclonedx-py" environment --output-reproducible --output-format JSON --validate \
  --output-file "$prefix/sbom.cdx.json" "$prefix/bin/python"
