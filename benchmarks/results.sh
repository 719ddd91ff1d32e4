#!/usr/bin/env bash
# Runs every recipe of this folder and writes docs/results.md from what they printed. What is in runs/ already is not run again.
#   HARDSIGHT_DATA=... bash benchmarks/results.sh
set -euo pipefail
cd "$(dirname "$0")/.."
: "${HARDSIGHT_DATA:?names the folder of real data}"
page=docs/results.md

section() { # title, command, file
  printf '\n## %s\n\n```sh\n%s\n```\n\n' "$1" "$2" >>"$page.new"
  sed 's/^### /**/; /^\*\*/s/$/**/' "$3" >>"$page.new"
}

cat benchmarks/results-head.md >"$page.new"
uv run hardsight bench >&2
section "Embedded encoders on made scenes" "hardsight bench" runs/made/report.md
for recipe in cifar10-classifiers cifar10-probes camvid rgbd suites; do
  uv run hardsight bench --recipe "benchmarks/$recipe.toml" >&2
  title=$(sed -n 's/^title = "\(.*\)"$/\1/p' "benchmarks/$recipe.toml")
  section "$title" "hardsight bench --recipe benchmarks/$recipe.toml" "runs/$recipe/report.md"
done
[ -f runs/beside_torchattacks.md ] || uv run python benchmarks/beside_torchattacks.py >runs/beside_torchattacks.md
section "PGD beside torchattacks, published CIFAR-10 classifiers" "python benchmarks/beside_torchattacks.py" runs/beside_torchattacks.md
mv "$page.new" "$page"
