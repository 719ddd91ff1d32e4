#!/usr/bin/env bash
# Runs attacks.py, training.py, many.py and beside_autoattack.py, and writes docs/performance.md from head.md and the tables they print.
# BEFORE: a checkout of an earlier commit, with which the times of commands are compared.
# Tables that already exist in runs/ (performance/*.md, autoattack-*.md) are not measured again.
#   HARDSIGHT_DATA=... bash benchmarks/performance/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${HARDSIGHT_DATA:?set it to the folder with the real data}"
mkdir -p runs/performance
page=docs/performance.md
cat benchmarks/performance/head.md >"$page.new"
for what in "peers --rounds 5" "attacks --rounds 3" "patience --rounds 3" "pieces --rounds 3" "memory --rounds 1" "levers --rounds 3"; do
  name=${what%% *}
  found=runs/performance/$name.md
  what="$what --threads 1 --clock cpu"
  [ -s "$found" ] || { uv run --group parity python benchmarks/performance/attacks.py $what 2>/dev/null >"$found.new" && mv "$found.new" "$found"; }
  case $name in
  peers) title="Compared with other libraries" ;;
  attacks) title="Whole evaluations" ;;
  patience) title="Early stopping of images whose loss no longer rises" ;;
  pieces) title="The gradient of a large batch in pieces" ;;
  memory) title="Peak memory of each search" ;;
  levers) title="Optimizations one by one" ;;
  esac
  printf '\n## %s\n\n```sh\nuv run --group parity python benchmarks/performance/attacks.py %s\n```\n\n' "$title" "$what" >>"$page.new"
  sed -e :a -e '/^\n*$/{$d;N;ba' -e '}' "$found" >>"$page.new"
done
found=runs/performance/training.md
what="all --rounds 5 --threads 1 --clock cpu"
[ -s "$found" ] || { uv run python benchmarks/performance/training.py $what 2>/dev/null >"$found.new" && mv "$found.new" "$found"; }
printf '\n## Training\n\n```sh\nuv run --group parity python benchmarks/performance/training.py %s\n```\n\n' "$what" >>"$page.new"
sed -e :a -e '/^\n*$/{$d;N;ba' -e '}' "$found" >>"$page.new"
found=runs/performance/pictures.md
what="pictures --rounds 5 --workers 2"
[ -s "$found" ] || { uv run python benchmarks/performance/training.py $what 2>/dev/null >"$found.new" && mv "$found.new" "$found"; }
printf '\n## Training on pictures of unlike sizes\n\n```sh\nuv run python benchmarks/performance/training.py %s\n```\n\n' "$what" >>"$page.new"
sed -e :a -e '/^\n*$/{$d;N;ba' -e '}' "$found" >>"$page.new"
found=runs/performance/many.md
[ -s "$found" ] || { uv run python benchmarks/performance/many.py all --rounds 5 --kills 100 2>/dev/null >"$found.new" && mv "$found.new" "$found"; }
printf '\n## Many workers on one store\n\n```sh\nuv run python benchmarks/performance/many.py all --rounds 5 --kills 100\n```\n\n' >>"$page.new"
sed -e :a -e '/^\n*$/{$d;N;ba' -e '}' "$found" >>"$page.new"
for what in "start --rounds 5" "reports --rounds 3"; do
  found=runs/performance/${what%% *}.md
  [ -s "$found" ] || { uv run python benchmarks/performance/start.py $what ${BEFORE:+--before "$BEFORE"} 2>/dev/null >"$found.new" && mv "$found.new" "$found"; }
  case $what in start*) title="Start" ;; *) title="Reports" ;; esac
  printf '\n## %s\n\n```sh\nuv run python benchmarks/performance/start.py %s --before FOLDER\n```\n\n' "$title" "$what" >>"$page.new"
  sed -e :a -e '/^\n*$/{$d;N;ba' -e '}' "$found" >>"$page.new"
done
(echo && cat benchmarks/performance/waits.md) >>"$page.new"  # measured once, since half of it is of an older commit
while read -r name more; do
  tag=$(echo "$name $more" | tr -d -c 'a-zA-Z0-9.' | sed 's/clockcpu//')
  found=runs/autoattack-$tag.md
  [ -s "$found" ] || { uv run --group parity python benchmarks/performance/beside_autoattack.py $name $more --out "runs/autoattack-$tag.jsonl" >"$found.new" && mv "$found.new" "$found"; }
  printf '\n## AutoAttack compared with its authors'"'"' code: %s\n\n```sh\nuv run --group parity python benchmarks/performance/beside_autoattack.py %s --out runs/autoattack-%s.jsonl\n```\n\n' \
    "$(sed -n 's/, n = .*//p' "$found" | sed '/^{/d')" "$name $more" "$tag" >>"$page.new"
  sed '/^{/d; /^chunk/d; /./,$!d' "$found" >>"$page.new"
done <<'RUNS'
resnet4b --count 700 --clock cpu
resnet20 --count 350 --clock cpu
resnet4b --count 100 --norm L2 --eps 0.25 --clock cpu
resnet4b --count 100 --norm L1 --eps 3 --clock cpu
resnet4b --count 50 --version plus --clock cpu
resnet4b --count 50 --version rand --clock cpu
RUNS
mv "$page.new" "$page"
