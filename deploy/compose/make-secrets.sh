#!/bin/sh
# Write the secrets of compose.yaml, new and random, unless they are there. Nothing is printed but where they are.
#   make-secrets.sh [FOLDER]      by default the folder `secrets` beside this script
set -eu

folder=${1:-$(dirname "$(realpath "$0")")/secrets}
if [ -e "$folder/platform.yaml" ]; then
  echo "$folder has secrets already; remove it for new ones"
  exit 0
fi

random() {
  head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'
}

# Containers read the files as users of their own, so the folder, and not each file, keeps everybody else out.
mkdir -p "$folder"
chmod 0700 "$folder"
umask 0333

redis=$(random)
admin=$(random)
printf 'aloraserve:%s\n' "$redis" > "$folder/redis-login"
digest=$(printf %s "$redis" | sha256sum | cut -d ' ' -f 1)
cat > "$folder/redis-users.acl" <<ACL
user default off
user aloraserve on #$digest ~{aloraserve:* resetchannels +@all -@admin -@dangerous +info +cluster|slots
ACL
printf %s "$admin" > "$folder/prometheus-key"
random > "$folder/grafana-password"
# Last: it says that all are there.
cat > "$folder/platform.yaml" <<SETTINGS
redis_url: redis://redis:6379/0?credentials_file=/run/secrets/redis-login
namespace: compose
api_keys: {first: "$(random)"}
admin_keys: {prometheus: "$admin"}
SETTINGS
echo "secrets are in $folder; the first tenant's key is api_keys.first of platform.yaml"
