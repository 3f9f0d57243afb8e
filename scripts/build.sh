#!/usr/bin/env bash
# Builds what a user runs: the release binaries in build/release/bin, the guest kernels and the root file system in
# artifacts/. What is up to date is not built again.
set -u -o pipefail
. "$(dirname "$0")/common.sh"

need_packages "${build_packages[@]}"
step "Release binaries" build_preset release || exit 1
step "Guest kernels" kernels/build.sh || exit 1
step "Root file system" rootfs/build.sh build/release/bin/mayfly-init || exit 1
