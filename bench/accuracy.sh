#!/bin/sh
# The accuracy report on Amazon Beauty: every method and way of writing items, at `mini` size, for sequential recommendation.
#
#   sh bench/accuracy.sh Beauty.txt INDEX.json RUNS RESULTS [UPDATES] [JOBS]
#
# Beauty.txt: S3-Rec's file. INDEX.json: a LETTER-style index of its items, for the semantic ids. RUNS: folder for data,
# checkpoints and bundles. RESULTS: folder for the report. UPDATES: optimiser steps of each training (default 4000, a
# quarter of an hour on one core). JOBS: trainings side by side, one thread each (default 2).
# Stopped and called again, it goes on where it was. SASRec needs `make peers-sasrec`, and is left out without.
set -eu
interactions=$1 index=$2 runs=$3 results=$4 updates=${5:-4000} jobs=${6:-2}
export OMP_NUM_THREADS=1 # one thread each: trainings share the cores
mkdir -p "$runs" "$results"

for ids in paper shuffled train-first; do
    [ -d "$runs/data-$ids" ] || podx data prepare "$interactions" --out "$runs/data-$ids" --ids "$ids"
done
[ -d "$runs/data-collaborative" ] || podx data index "$runs/data-train-first" --collaborative --out "$runs/data-collaborative"
[ -d "$runs/data-semantic" ] ||
    podx data index "$runs/data-train-first" --file "$index" --keys raw-less-1 --scheme semantic --out "$runs/data-semantic"

precision=fp32
python -c "from podx_train.training.processes import cpu_multiplies_bf16 as f; raise SystemExit(not f())" && precision=bf16

# train NAME IDS SEED [OPTION…]: one training of the recipe, in the background; waits where JOBS are running
running=
train() {
    name=$1 ids=$2 seed=$3 && shift 3
    podx train "$runs/data-$ids" --out "$runs/$name" --preset mini --tasks sequential --targets all --pieces 512 \
        --batch-size 64 --lr 1e-3 --warmup 200 --schedule cosine --updates "$updates" --epochs 40 --patience 40 \
        --validation-users 2048 --precision "$precision" --seed "$seed" --resume "$@" &
    running="$running $!"
    [ "$(echo "$running" | wc -w)" -lt "$jobs" ] || finish
}
finish() {
    for training in $running; do
        wait "$training" # unlike a bare wait, this fails where the training did
    done
    running=
}
train pod-collaborative-0 collaborative 0
train pod-semantic-0 semantic 0
train peapod-collaborative-0 collaborative 0 --method peapod
train p5-collaborative-0 collaborative 0 --method p5
train pod-collaborative-1 collaborative 1
train pod-collaborative-2 collaborative 2
train pod-paper-0 paper 0 --pieces 2048
train pod-shuffled-0 shuffled 0 --pieces 2048
train pod-train-first-0 train-first 0 --pieces 2048
train teacher-0 collaborative 0 --layers 3,6
finish

# Students of a teacher with three encoder and six decoder layers: two decoder layers, and less of everything.
distill() {
    name=$1 && shift
    podx distill "$runs/teacher-0" --data "$runs/data-collaborative" --out "$runs/$name" --decoder-layers 2 "$@" \
        --targets all --batch-size 64 --lr 5e-4 --embedding-lr 10 --warmup 100 --schedule cosine \
        --updates "$((updates * 5 / 8))" --epochs 40 --patience 40 --validation-users 2048 --precision "$precision" --resume
}
distill student-0
distill student-small-0 --encoder-layers 2 --d-ff 256

for name in pod-collaborative-0 pod-collaborative-1 pod-collaborative-2 pod-semantic-0 peapod-collaborative-0 \
    p5-collaborative-0 pod-paper-0 pod-shuffled-0 pod-train-first-0 teacher-0 student-0 student-small-0; do
    [ -d "$runs/bundle-$name" ] || podx export "$runs/$name" --out "$runs/bundle-$name"
done
# the same checkpoint with words kept at inference (the paper's Table 6)
worded="$runs/bundle-pod-collaborative-0-worded"
[ -d "$worded" ] || podx export "$runs/pod-collaborative-0" --out "$worded" --inference discrete

sasrec=${PODX_SASREC:-.venv-sasrec}/bin/python
peers=
if [ -x "$sasrec" ]; then
    [ -f "$runs/sasrec-0.json" ] ||
        "$sasrec" "$(dirname "$0")/sasrec/sasrec.py" "$runs/data-train-first" --out "$runs/sasrec-0.json" --seed 0 --minutes 12
    peers="--peer $runs/sasrec-0.json@$runs/data-train-first"
fi
unset OMP_NUM_THREADS
# shellcheck disable=SC2086 # $peers is two words, or none
podx bench accuracy \
    "POD=$runs/bundle-pod-paper-0@$runs/data-paper" \
    "POD=$runs/bundle-pod-shuffled-0@$runs/data-shuffled" \
    "POD=$runs/bundle-pod-train-first-0@$runs/data-train-first" \
    "POD=$runs/bundle-pod-semantic-0@$runs/data-semantic" \
    "POD=$runs/bundle-pod-collaborative-0@$runs/data-collaborative" \
    "POD=$runs/bundle-pod-collaborative-1@$runs/data-collaborative" \
    "POD=$runs/bundle-pod-collaborative-2@$runs/data-collaborative" \
    "POD, words kept=$worded@$runs/data-collaborative" \
    "P5=$runs/bundle-p5-collaborative-0@$runs/data-collaborative" \
    "PeaPOD=$runs/bundle-peapod-collaborative-0@$runs/data-collaborative" \
    "POD, 6 decoder layers=$runs/bundle-teacher-0@$runs/data-collaborative" \
    "student, 2 decoder layers=$runs/bundle-student-0@$runs/data-collaborative" \
    "student, 2 + 2 narrow layers=$runs/bundle-student-small-0@$runs/data-collaborative" \
    $peers --tasks sequential --threads 1 --out "$results"
