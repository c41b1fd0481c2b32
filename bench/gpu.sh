#!/bin/sh
# Everything that is measured on an NVIDIA GPU, in one command of about nine minutes.
#
#   sh bench/gpu.sh INTERACTIONS TOKENIZER RUNS RESULTS [SECONDS] [MORE]
#
# INTERACTIONS: whatever `podx data prepare` reads. TOKENIZER: T5's own sentencepiece model. RUNS: folder for data,
# checkpoints and bundles. RESULTS: folder for results and the report. SECONDS: of training (default 80). MORE: another
# file of interactions, trained beside the first.
#
# First one-pass models of t5-small's shape, a token an item, are trained; beside them, on the CPU, untrained models of
# the same shape are made, for speed alone: the paper's recipe with item numbers, and one pass with three codes an item.
# Then, with nothing else running: eager PyTorch in fp32 and bf16 beside podx in fp32, fp16 and bf16, as a CUDA graph
# and without, at batch 1 to 256; lists compared with eager's.
set -eu
export OMP_NUM_THREADS=4 # of each of the processes that prepare side by side; the bench sets its own
interactions=$1 tokenizer=$2 runs=$3 results=$4 seconds=${5:-80} more=${6:-}
mkdir -p "$runs" "$results"
begun=$(date +%s)
say() { echo "== $(($(date +%s) - begun)) s: $*"; }
# cap SECONDS COMMAND…: what takes longer is ended, and the rest still measured
cap() { timeout --signal=INT --kill-after=20 "$@" || say "ended or failed: $*"; }

say "data"
{ [ -d "$runs/numbers" ] || podx data prepare "$interactions" --out "$runs/numbers"; } > "$runs/data.log" 2>&1
{ [ -d "$runs/one" ] || podx data index "$runs/numbers" --one-token --out "$runs/one"; } >> "$runs/data.log" 2>&1 &
indexing=$!
{ [ -d "$runs/codes" ] || podx data index "$runs/numbers" --collaborative --out "$runs/codes"; } > "$runs/codes.log" 2>&1 &
coding=$!
wait $indexing $coding

# checkpoint NAME DATA RECIPE OPTIONS…: of t5-small's shape, unless it is there
checkpoint() {
    name=$1 data=$2 recipe=$3
    shift 3
    [ -d "$runs/ck-$name" ] || podx train "$runs/$data" --out "$runs/ck-$name" --preset t5-small --tasks sequential \
        --tokenizer "$tokenizer" --recipe "$recipe" "$@" > "$runs/train-$name.log" 2>&1 || say "training $name failed"
    say "checkpoint $name"
}
# bundles NAME PRECISION…: one after another
bundles() {
    name=$1
    shift
    for precision in "$@"; do
        [ -d "$runs/$name-$precision" ] || podx export "$runs/ck-$name" --out "$runs/$name-$precision" \
            --precision "$precision" --parity-users 4 > "$runs/export-$name-$precision.log" 2>&1 ||
            say "export $name $precision failed"
    done
}

say "train $seconds s; untrained models beside it"
minutes=$(echo "$seconds" | awk '{ print $1 / 60 }')
trainings=
if [ -n "$more" ]; then
    {
        [ -d "$runs/more" ] || podx data prepare "$more" --out "$runs/more-numbers" > "$runs/more.log" 2>&1
        [ -d "$runs/more" ] || podx data index "$runs/more-numbers" --one-token --out "$runs/more" >> "$runs/more.log" 2>&1
        checkpoint more more fast --device cuda --max-minutes "$minutes"
        bundles more fp32
    } &
    trainings=$!
fi
checkpoint one one fast --device cuda --max-minutes "$minutes" &
training=$!
for model in numbers:paper codes:large-catalog; do
    {
        checkpoint "${model%:*}" "${model%:*}" "${model#*:}" --epochs 0 --device cpu
        bundles "${model%:*}" fp32 fp16
    } &
    trainings="$trainings $!"
done
wait $training
say "export"
for precision in fp32 fp16 bf16; do
    bundles one $precision &
    trainings="$trainings $!"
done
for made in $trainings; do wait "$made"; done
for name in one more; do
    [ ! -f "$runs/ck-$name/training.json" ] || cp "$runs/ck-$name/training.json" "$results/training-$name.json"
done

# measure NAME SECONDS OPTIONS…: podx and eager on the GPU
measure() {
    name=$1 limit=$2
    shift 2
    variants=
    for precision in fp16 bf16; do
        [ ! -d "$runs/$name-$precision" ] || variants="$variants --variant $precision=$runs/$name-$precision"
    done
    say "measure $name"
    # shellcheck disable=SC2086 # several words
    cap "$limit" podx bench "$runs/$name-fp32" $variants --checkpoint "$runs/ck-$name" --data "$runs/$name" \
        --device cuda --tasks sequential --threads 8 "$@" --out "$results/$name" --label "$name"
}
measure one 150 --engines encode-once,encode-once-bf16,podx,podx-uncaptured --batch-sizes 1,8,32,128,256 \
    --speed-users 32 --rounds 2 --accuracy-users 2048 --eager-users 256
measure numbers 85 --engines encode-once,podx,podx-uncaptured --batch-sizes 1,32,256 --speed-users 16 --rounds 2 \
    --accuracy-users 64 --eager-users 64
measure codes 60 --engines encode-once,podx,podx-uncaptured --batch-sizes 1,32,256 --speed-users 16 --rounds 2 \
    --accuracy-users 64 --eager-users 64
# accuracy NAME: of the trained model, all test users
accuracy() {
    [ ! -d "$runs/$1-fp32" ] || cap 40 podx bench accuracy "one pass, a token an item, t5-small=$runs/$1-fp32@$runs/$1" \
        --device cuda --batch-size 256 --unconstrained-users 0 --timed-users 0 --out "$results/accuracy-$1"
}
say "accuracy"
accuracy one
accuracy more
python -m podx_bench.report "$results"/*/results.json --out "$results"
say "done"
