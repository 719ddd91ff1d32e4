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

cells() { # recipe, its command where that is another
  title=$(sed -n 's/^title = "\(.*\)"$/\1/p' "benchmarks/$1.toml")
  section "$title" "${2:-hardsight bench --recipe benchmarks/$1.toml}" "runs/$1/report.md"
}

cat benchmarks/results-head.md >"$page.new"
uv run hardsight bench >&2
section "Embedded encoders on made scenes" "hardsight bench" runs/made/report.md
for recipe in cifar10-classifiers cifar10-probes cifar10-knn; do
  uv run hardsight bench --recipe "benchmarks/$recipe.toml" >&2
  cells $recipe
done
for probe in probe 'finetune(epochs=5)' 'alf(threat=linf(2/255), epochs=5)' 'aff(threat=linf(2/255), epochs=5, lr=0.02)'; do
  uv run hardsight bench --recipe benchmarks/cifar10-protocols.toml --store runs/cifar10-protocols --set "probe=$probe" >&2
done
uv run hardsight report runs/cifar10-protocols >&2
cells cifar10-protocols "$(sed -n 's/^# Command: //p; s/^#          //p' benchmarks/cifar10-protocols.toml | sed 's/    (HARD.*//')"
for recipe in cifar10-nearest cifar10-corruptions cifar10-resolution cifar10-crops cifar10-crops-apart camvid rgbd bccd moving suites suites-boxes suites-real; do
  uv run hardsight bench --recipe "benchmarks/$recipe.toml" >&2
  cells $recipe
done
for script in real_clips probes beside_torchattacks; do
  [ -f runs/$script.md ] || { uv run python benchmarks/$script.py >runs/$script.md.new && mv runs/$script.md.new runs/$script.md; }
done
section "Three real clips, attacked without labels" "python benchmarks/real_clips.py" runs/real_clips.md
section "PGD beside torchattacks, published CIFAR-10 classifiers" "python benchmarks/beside_torchattacks.py" runs/beside_torchattacks.md
section "What a head costs once features are there" "python benchmarks/probes.py" runs/probes.md
export CIFAR10="${CIFAR10:-$PWD/runs/cifar10_jpeg}"
[ -d "$CIFAR10" ] || tar -xf "$HARDSIGHT_DATA/cifar10_jpeg/cifar10_jpeg.tar.xz" -C runs
for study in paper001 paper002 paper002-cifar10 paper003; do
  file=benchmarks/studies/$study
  uv run hardsight study "$file.toml" --out "runs/$study" >&2
  section "$(sed -n '1s/^# \(.*[^.]\)\.*$/\1/p' "$file.toml" | cut -d';' -f1)" "$(sed -n '2s/^# Command: //p' "$file.toml")" "runs/$study/table.md"
  printf '\n' >>"$page.new" && cat "$file.md" >>"$page.new"
done
mv "$page.new" "$page"
