#!/usr/bin/env bash
# Runs every recipe and script of this folder and all studies; writes docs/results.md from head.md and the tables they print, and
# docs/papers.md from the studies' figures and the claims.
# Results that already exist in runs/ are not computed again.
#   HARDSIGHT_DATA=... bash benchmarks/results/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${HARDSIGHT_DATA:?set it to the folder with the real data}"
page=docs/results.md

section() { # title, command, file
  printf '\n## %s\n\n```sh\n%s\n```\n\n' "$1" "$2" >>"$page.new"
  sed 's/^### /**/; /^\*\*/s/$/**/' "$3" >>"$page.new"
}

cells() { # recipe, and its command if that is not the usual one
  title=$(sed -n 's/^title = "\(.*\)"$/\1/p' "benchmarks/results/$1.toml")
  section "$title" "${2:-hardsight bench --recipe benchmarks/results/$1.toml}" "runs/$1/report.md"
}

cat benchmarks/results/head.md >"$page.new"
uv run hardsight bench >&2
section "Embedded encoders on synthetic scenes" "hardsight bench" runs/made/report.md
for recipe in cifar10-classifiers cifar10-probes cifar10-knn; do
  uv run hardsight bench --recipe "benchmarks/results/$recipe.toml" >&2
  cells $recipe
done
for probe in probe 'finetune(epochs=5)' 'alf(threat=linf(2/255), epochs=5)' 'aff(threat=linf(2/255), epochs=5, lr=0.02)'; do
  uv run hardsight bench --recipe benchmarks/results/cifar10-protocols.toml --store runs/cifar10-protocols --set "probe=$probe" >&2
done
uv run hardsight report runs/cifar10-protocols >&2
cells cifar10-protocols "$(sed -n 's/^# Command: //p; s/^#          //p' benchmarks/results/cifar10-protocols.toml | sed 's/    (HARD.*//')"
for recipe in cifar10-nearest cifar10-corruptions cifar10-resolution cifar10-crops cifar10-crops-apart camvid rgbd bccd moving suites suites-boxes suites-real; do
  uv run hardsight bench --recipe "benchmarks/results/$recipe.toml" >&2
  cells $recipe
done
for script in real_clips probes heads beside_torchattacks; do
  [ -f runs/$script.md ] || { uv run python benchmarks/results/$script.py >runs/$script.md.new && mv runs/$script.md.new runs/$script.md; }
done
section "Three real clips, attacked without labels" "python benchmarks/results/real_clips.py" runs/real_clips.md
section "PGD compared with torchattacks on published CIFAR-10 classifiers" "python benchmarks/results/beside_torchattacks.py" runs/beside_torchattacks.md
section "Tuned heads beside scikit-learn" "python benchmarks/results/heads.py" runs/heads.md
section "The cost of a head on cached features" "python benchmarks/results/probes.py" runs/probes.md
export CIFAR10="${CIFAR10:-$PWD/runs/cifar10_jpeg}"
[ -d "$CIFAR10" ] || tar -xf "$HARDSIGHT_DATA/cifar10_jpeg/cifar10_jpeg.tar.xz" -C runs
for study in paper000 paper001 paper001-video paper001-longer paper002-hardening paper002-hardening-cifar10 paper003 paper003-longer; do
  file=src/hardsight/measure/studies/$study
  uv run hardsight study "$study" >&2
  section "$(sed -n '1s/^# \(.*[^.]\)\.*$/\1/p' "$file.toml" | cut -d';' -f1)" "$(sed -n 's/^# Command: //p' "$file.toml" | head -1)" "runs/$study/table.md"
  [ ! -f "$file.md" ] || { printf '\n' && cat "$file.md"; } >>"$page.new"
done
mv "$page.new" "$page"
uv run hardsight study paper002 >&2
uv run python benchmarks/results/papers.py
