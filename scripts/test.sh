#!/usr/bin/env bash
# Installs what the tests need, builds, runs every suite, and ends with a summary line.
set -u -o pipefail
. "$(dirname "$0")/common.sh"

usage="usage: scripts/test.sh [SUITE…]

Suites; without a name: every one but dev, whose tests asan runs as well.
  format   the sources are formatted as .clang-format says, and the tests that documents name exist
  dev      unit tests and tiny KVM guests, debug build
  asan     the same under the address and undefined-behaviour sanitizers
  tsan     those of them whose subject has threads, under the thread sanitizer
  fuzz     each fuzzer for a short while
  security system call filters: what they let through and what not; how the executables are built
  lab      the lab itself
  guest    Linux guests, in the lab where there is no hardware virtualization
  package  the Debian package, installed on a Debian that has nothing else

Logs are in build/logs/."
suites=()
for word in "$@"; do
  case $word in
    format | dev | asan | tsan | fuzz | security | lab | guest | package) suites+=("$word") ;;
    --help | -h) printf '%s\n' "$usage"; exit 0 ;;
    *) printf 'test.sh: no suite is named "%s"\n%s\n' "$word" "$usage" >&2; exit 2 ;;
  esac
done
[ ${#suites[@]} -gt 0 ] || suites=(format asan tsan fuzz security lab guest package)

passed=0 failed=0
# count LOG STATUS: adds what a suite's log says of itself, in ctest's words or as "N passed, N failed".
count() {
  local log=$1 status=$2 good bad
  good=$(sed -n 's/^.*: *\([0-9]*\) passed, [0-9]* failed.*$/\1/p; s/^\([0-9]*\) passed, [0-9]* failed.*$/\1/p' "$log" | awk '{n += $1} END {print n + 0}')
  bad=$(sed -n 's/^\(.*: *\)\{0,1\}[0-9]* passed, \([0-9]*\) failed.*$/\2/p' "$log" | awk '{n += $1} END {print n + 0}')
  if grep -q 'tests passed, .* tests failed out of' "$log"; then
    bad=$((bad + $(sed -n 's/^.*% tests passed, \([0-9]*\) tests failed out of .*$/\1/p' "$log" | tail -1)))
    good=$((good + $(sed -n 's/^.*tests failed out of \([0-9]*\).*$/\1/p' "$log" | tail -1) - bad))
  fi
  [ $((good + bad)) -gt 0 ] || { [ "$status" -eq 0 ] && good=1; }
  [ "$status" -eq 0 ] || [ "$bad" -gt 0 ] || bad=1
  passed=$((passed + good)) failed=$((failed + bad))
}

# suite TITLE COMMAND…
suite() {
  local status=0 log
  log=build/logs/$(printf '%s' "$1" | tr -c 'A-Za-z0-9\n' '-' | cut -c1-60).log
  step "$@" || status=$?
  count "$log" "$status"
}

# ctest_preset PRESET [TEST…]
ctest_preset() {
  local preset=$1
  shift
  ctest --test-dir "build/$preset" --output-on-failure --no-tests=error -j "$(nproc)" ${1:+-R "/($(IFS='|'; printf '%s' "$*"))\$"}
}
threaded_tests=(test_base test_virtio_mmio test_virtio_block test_virtio_overlay_drive test_virtio_net test_virtio_net_tap test_vsock test_mmds test_http test_vmm test_kvm_machine
  test_kvm_hostile)
format_suite() {
  local name status=0
  git ls-files '*.h' '*.cpp' | xargs clang-format --dry-run --Werror || status=1
  while read -r name; do
    grep -rqF "TEST_CASE(\"$name\"" tests || { printf 'docs: there is no test "%s"\n' "$name"; status=1; }
  done < <({ cat docs/hostile-guest.md; grep '^|' docs/security.md; } | grep -o '"[^"]*"' | tr -d '"')
  return "$status"
}

# side_by_side FUNCTION WORD…: FUNCTION WORD for each word, as many at once as there are CPUs, what each prints in one piece.
side_by_side() {
  export -f "$1"
  printf '%s\0' "${@:2}" |
    xargs -0 -n 1 -P "$(nproc)" bash -c 'out=$("$0" "$1" 2>&1); status=$?; printf -- "--- %s, %d s\n%s\n" "$1" "$SECONDS" "$out"; exit "$status"' "$1"
}

fuzz() {
  local name
  name=$(basename "$1")
  if [ ! -d "build/fuzz/corpus/$name" ]; then
    mkdir -p "build/fuzz/corpus/$name" && tar -xJf "tests/fuzz/corpus/$name.tar.xz" -C "build/fuzz/corpus/$name" || return 1
  fi
  if "$1" -max_total_time="${MAYFLY_FUZZ_SECONDS:-60}" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="build/fuzz/$name-" "build/fuzz/corpus/$name"; then
    echo "1 passed, 0 failed"
  else
    echo "0 passed, 1 failed"
    return 1
  fi
}
fuzz_suite() { side_by_side fuzz $(find build/fuzz/fuzz -maxdepth 1 -type f -executable | sort); }

hardware_virtualization() { grep -qwE 'vmx|svm' /proc/cpuinfo && [ -w /dev/kvm ]; }

# Each in a lab of its own, with a record of the VMM's system calls.
in_lab() {
  lab/run --fresh --timeout 1500 -- tests/security/record_calls.sh "$PWD/build/lab-out/calls-$(basename "$1" .sh)" "$1"
}
guest_suite() {
  local test status=0
  if ! hardware_virtualization; then
    rm -f build/lab-out/calls-*
    side_by_side in_lab $(ls -S tests/guest/*_test.sh) || status=1 # the longest first
    printf -- '--- system calls that the policies allow, and those that were made\n'
    # Of two labs, threads may have the same number.
    if awk 'FNR == 1 { ++lab } { sub(/-[0-9]+/, "&" (1000 + lab)); print }' build/lab-out/calls-* |
      build/release/bin/mayfly-filter audit --trace - jailer/seccomp/*.policy; then
      echo "1 passed, 0 failed"
    else
      echo "0 passed, 1 failed"
      status=1
    fi
    return "$status"
  fi
  for test in tests/guest/*_test.sh; do
    printf -- '--- %s\n' "$test"
    "$test" || status=1
  done
  return "$status"
}

start=$SECONDS
need_packages "${build_packages[@]}" catch2 clang-19 libclang-rt-19-dev python3 python3-yaml python3-jsonschema skopeo umoci file || exit 1
for name in "${suites[@]}"; do
  case $name in
    format)
      need_packages clang-format || exit 1
      suite "Formatting" format_suite
      ;;
    dev)
      step "Build: dev" build_preset dev || { failed=$((failed + 1)); continue; }
      suite "Tests: dev" ctest_preset dev
      ;;
    asan)
      step "Build: asan-ubsan" build_preset asan-ubsan || { failed=$((failed + 1)); continue; }
      suite "Tests: asan-ubsan" ctest_preset asan-ubsan
      ;;
    tsan)
      step "Build: tsan" build_preset tsan "${threaded_tests[@]}" || { failed=$((failed + 1)); continue; }
      suite "Tests: tsan" ctest_preset tsan "${threaded_tests[@]}"
      ;;
    fuzz)
      need_packages xz-utils || exit 1
      step "Build: fuzz" build_preset fuzz fuzzers || { failed=$((failed + 1)); continue; }
      suite "Fuzzers" fuzz_suite
      ;;
    security)
      step "Build: security" build_preset security test_security_calls test_security_vmm || { failed=$((failed + 1)); continue; }
      suite "Tests: security" ctest --test-dir build/security --output-on-failure --no-tests=error -L security
      step "Build: release" build_preset release mayfly mayfly-vmm mayfly-filter || { failed=$((failed + 1)); continue; }
      suite "Executables" tests/security/elf_test.sh
      ;;
    lab) suite "Lab" lab/test.sh ;;
    guest)
      # What `mayfly run --net` runs, and what its test is made with.
      need_packages curl ethtool fio iperf3 iproute2 jq nftables passt procps || exit 1
      scripts/build.sh || { failed=$((failed + 1)); continue; }
      suite "Linux guests" guest_suite
      ;;
    package)
      need_packages curl debootstrap groff-base man-db systemd || exit 1
      scripts/package.sh || { failed=$((failed + 1)); continue; }
      suite "Debian package" tests/package/deb_test.sh
      ;;
  esac
done

printf '\nLogs: build/logs/  Time: %d min %d s\n' $(((SECONDS - start) / 60)) $(((SECONDS - start) % 60))
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
