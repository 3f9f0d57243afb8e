#!/usr/bin/env bash
# scripts/build.sh [KERNEL…]: builds what a user runs: the release binaries in build/release/bin, the guest kernels (or
# the one that is named) and the root file system in artifacts/. What is up to date is not built again.
set -u -o pipefail
. "$(dirname "$0")/common.sh"

need_packages "${build_packages[@]}" || exit 1
step "Release binaries" build_preset release || exit 1
step "Guest kernel${1:+ $*}" kernels/build.sh "$@" || exit 1
step "Root file system" rootfs/build.sh build/release/bin/mayfly-init || exit 1
