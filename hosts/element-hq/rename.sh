#!/usr/bin/env bash
# Copies the sources of this module into a folder, as a module for github.com/element-hq/dendrite. Of the files that
# differ between the hosts, the copy has those of the fork alone. In the folder, packages of npm and builds stay.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD folder=$1
mkdir -p "$folder"

. hosts/sources.sh
sources "$folder" | xargs -0r rm
sources . | tar -c --null -T - | tar -x -C "$folder"

cd "$folder"
cp hosts/element-hq/go.mod hosts/element-hq/go.sum .
rm -r hooks/host.go hooks/host_test.go integration/hosts internal/houserules # the last two are for the original alone
sed -i '/^\/\/go:build element_hq$/,+1d' hooks/host_element_hq.go hooks/host_element_hq_test.go
grep -rlIZ --include='*.go' github.com/matrix-org/dendrite . |
  xargs -0 sed -i 's,github\.com/matrix-org/dendrite,github.com/element-hq/dendrite,g'
for packages in clients/ts/node_modules integration/openmls/node_modules; do
  [ ! -d "$root/$packages" ] || [ -e "$packages" ] || ln -s "$root/$packages" "$packages"
done
