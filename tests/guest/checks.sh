# What tests share that check one thing after another. Source it; end with summary.
# shellcheck shell=bash
passed=0 failed=0

# check WHAT COMMAND…
check() {
  local what=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
    printf 'ok      %s\n' "$what"
  else
    failed=$((failed + 1))
    printf 'FAILED  %s\n' "$what"
    return 1
  fi
}

summary() {
  printf '%d passed, %d failed\n' "$passed" "$failed"
  [ "$failed" -eq 0 ]
}
