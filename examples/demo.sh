#!/bin/sh
# The whole path on a small synthetic world: data, training, export, recommendation, benchmark.
# Usage: sh examples/demo.sh [FOLDER]
set -eu
folder=${1:-demo}
rm -rf "$folder"
mkdir -p "$folder"
say() { printf '\n== %s\n' "$*"; }

say "1. a small world whose users follow learnable habits"
podx data synth --out "$folder/data" --seed 0

say "2. train a tiny model on all three tasks, from scratch"
podx train "$folder/data" --out "$folder/checkpoint" --preset tiny --tokenizer train \
    --epochs 40 --max-minutes 2 --lr 2e-3 --seed 0

say "3. export it to ONNX and compare it with eager PyTorch"
podx export "$folder/checkpoint" --out "$folder/bundle"

say "4. ask it"
podx recommend "$folder/bundle" --user "$(head -n 1 "$folder/data/demo_user.txt" 2>/dev/null || echo u1)" -k 5

say "5. benchmark it against eager PyTorch"
podx bench "$folder/bundle" --checkpoint "$folder/checkpoint" --data "$folder/data" --out "$folder/bench" \
    --batch-sizes 1,32 --users 256
