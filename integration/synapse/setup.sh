#!/usr/bin/env bash
# Installs Synapse for the tests, from Debian's unstable suite, into a folder of the user's cache. It does so once, in a
# minute and 550 MB. It needs root and debootstrap. It uses the mirror and Acquire::Check-Valid-Until of apt.
set -euo pipefail
folder=${XDG_CACHE_HOME:-$HOME/.cache}/mimiport/synapse

if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null; then
  echo "The installation of Synapse needs root and debootstrap" >&2
  exit 1
fi
mkdir -p "$(dirname "$folder")"
exec 9>"$folder.lock"
flock 9
[ ! -d "$folder" ] || exit 0

new=$folder.new # renamed at the end
rm -rf --one-file-system "$new"
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | sed -n 1p)
eval "$(apt-config shell valid_until Acquire::Check-Valid-Until)"
unshare --mount debootstrap --force-check-gpg --variant=minbase --include=ca-certificates \
  sid "$new" ${mirror:+"$mirror"}
printf '#!/bin/sh\nexit 101\n' >"$new/usr/sbin/policy-rc.d" # no service starts
chmod +x "$new/usr/sbin/policy-rc.d"
echo force-unsafe-io >"$new/etc/dpkg/dpkg.cfg.d/cache" # a failed installation starts again
cp /etc/resolv.conf /etc/hosts "$new/etc/"
inside() { DEBIAN_FRONTEND=noninteractive chroot "$new" "$@"; }
inside debconf-set-selections <<'ANSWERS'
matrix-synapse matrix-synapse/server-name string localhost
matrix-synapse matrix-synapse/report-stats boolean false
ANSWERS
inside apt-get -qq -o Acquire::Check-Valid-Until="${valid_until:-true}" update
inside apt-get -qq install -y --no-install-recommends matrix-synapse
inside apt-get clean
inside dpkg-query -W matrix-synapse
mv "$new" "$folder"
