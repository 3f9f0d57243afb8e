#!/usr/bin/env bash
# scripts/package.sh: the Debian package, build/package/mayfly_VERSION_amd64.deb, of what scripts/build.sh builds.
set -u -o pipefail
. "$(dirname "$0")/common.sh"

need_packages dpkg-dev || exit 1
scripts/build.sh || exit 1
step "Debian package" cpack --config build/release/CPackConfig.cmake -B build/package || exit 1
ls build/package/*.deb
