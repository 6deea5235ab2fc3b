#!/bin/sh
# Install what an image needs of Debian, and make its user (10001) with the state folder.
#   system.sh gateway|cpu|cuda
# Versions are not pinned: Debian removes the old ones from its mirrors. What was installed is in the image's own list.
set -eu

# tini ends what a killed process leaves behind; KubeRay's probes call wget.
packages="ca-certificates tini wget"
case $1 in
  gateway) ;;
  cpu) packages="$packages libnuma1" ;;
  # Triton and FlashInfer compile kernels when an engine starts.
  cuda) packages="$packages g++ libnuma1" ;;
  *) echo "system.sh: the profile is '$1'; gateway, cpu and cuda are accepted" >&2; exit 2 ;;
esac

apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages >/dev/null
rm -rf /var/lib/apt/lists/*

groupadd --gid 10001 aloraserve
useradd --uid 10001 --gid 10001 --home-dir /var/lib/aloraserve --no-create-home --shell /usr/sbin/nologin aloraserve
install -d -o 10001 -g 10001 -m 0700 /var/lib/aloraserve
