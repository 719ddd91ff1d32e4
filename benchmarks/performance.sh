#!/usr/bin/env bash
# Runs benchmarks/performance.py and writes docs/performance.md from what it printed. What is in runs/performance/ is not run again.
#   HARDSIGHT_DATA=... bash benchmarks/performance.sh [--rounds 5 --threads 1 --clock cpu]
set -euo pipefail
cd "$(dirname "$0")/.."
: "${HARDSIGHT_DATA:?names the folder of real data}"
mkdir -p runs/performance
page=docs/performance.md
cat benchmarks/performance-head.md >"$page.new"
for what in peers attacks levers; do
  found=runs/performance/$what.md
  [ -s "$found" ] || { uv run --group parity python benchmarks/performance.py "$what" "$@" 2>/dev/null >"$found.new" && mv "$found.new" "$found"; }
  case $what in
  peers) title="Beside other libraries" ;;
  attacks) title="Attacks as they are run" ;;
  levers) title="Lever by lever" ;;
  esac
  printf '\n## %s\n\n```sh\npython benchmarks/performance.py %s\n```\n\n' "$title" "$what" >>"$page.new"
  cat "$found" >>"$page.new"
done
for model in resnet4b resnet20; do
  found=runs/autoattack-$model.md
  [ -s "$found" ] || continue
  printf '\n## AutoAttack beside its authors'"'"' code: %s\n\n```sh\npython benchmarks/beside_autoattack.py %s\n```\n\n' "$model" "$model" >>"$page.new"
  cat "$found" >>"$page.new"
done
mv "$page.new" "$page"
