#!/bin/sh
# The whole path on a small synthetic world: data, training, export, answers, benchmark. Under four minutes on two cores.
# Usage: sh examples/demo.sh [FOLDER]
set -eu
folder=${1:-demo}
mkdir -p "$folder"
for part in data checkpoint bundle bench; do rm -rf "${folder:?}/$part"; done # of the last run, and nothing else
say() { printf '\n== %s\n' "$*"; }

say "1/5 a small world whose users follow habits that can be learned"
podx data synth --out "$folder/data" --seed 0

say "2/5 train a tiny model on all three tasks, from random weights, for two minutes"
# one thread: tensors this small gain little from more, and lose much when the cores are busy with something else
OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" podx train "$folder/data" --out "$folder/checkpoint" --preset tiny --tokenizer train --targets all \
    --batch-size 32 --lr 1e-3 --validation-users 100 --epochs 100 --max-minutes 2

say "3/5 export it to ONNX and compare it with eager PyTorch"
podx export "$folder/checkpoint" --out "$folder/bundle"

say "4/5 ask it"
podx recommend "$folder/bundle" --user u1 -k 5
podx rank "$folder/bundle" --user u1 --candidates i1,i2,i3,i4,i5 -k 3
podx explain "$folder/bundle" --user u1 --item i1

say "5/5 benchmark it against eager PyTorch"
# PyTorch is slow, so it answers few users: 16 for accuracy, 32 for time. Leave --engines out to see more of its ways.
podx bench "$folder/bundle" --checkpoint "$folder/checkpoint" --data "$folder/data" --out "$folder/bench" \
    --engines encode-once,podx --rounds 2 --speed-users 32 --eager-users 16

say "to try it: $(command -v podx) serve $folder/bundle, then open http://127.0.0.1:8000 and ask for user u1"
