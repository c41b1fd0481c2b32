#!/bin/sh
# The main job on Amazon Beauty, from the interaction file to the committed report.
#
#   sh bench/beauty.sh Beauty.txt spiece.model RUNS RESULTS [MINUTES]
#
# Beauty.txt: S3-Rec's file. spiece.model: T5's own sentencepiece model. RUNS: folder for data, checkpoints and bundles.
# RESULTS: folder for results and reports. MINUTES: training time of each of the three models (default 34), which are
# trained side by side, one thread each.
set -eu
interactions=$1 tokenizer=$2 runs=$3 results=$4 minutes=${5:-34}
schemes="paper shuffled train-first"
mkdir -p "$runs" "$results"

for ids in $schemes; do
    podx data prepare "$interactions" --out "$runs/beauty-$ids" --ids "$ids"
    podx data stats "$runs/beauty-$ids"
done

trainings=
for ids in $schemes; do
    OMP_NUM_THREADS=1 podx train "$runs/beauty-$ids" --out "$runs/ck-$ids" --preset mini --tokenizer "$tokenizer" \
        --tasks sequential,topn --targets all --batch-size 32 --lr 1e-3 --warmup 100 --validation-users 512 \
        --epochs 50 --max-minutes "$minutes" &
    trainings="$trainings $!"
done
for training in $trainings; do
    wait "$training" # unlike a bare wait, this fails where the training did
done

for ids in $schemes; do
    podx export "$runs/ck-$ids" --out "$runs/bundle-$ids"
    # every test user on sequential recommendation, 5,000 on top-N, whose inputs are ten times as long
    for part in "sequential 22363" "topn 5000"; do
        set -- $part
        podx bench "$runs/bundle-$ids" --checkpoint "$runs/ck-$ids" --data "$runs/beauty-$ids" \
            --out "$results/beauty-$ids-$1" --label "$ids" --tasks "$1" --users "$2" --no-speed --accuracy-users 0 --eager-users 32
    done
done
python -m podx_bench.report "$results"/beauty-paper-*/results.json "$results"/beauty-shuffled-*/results.json \
    "$results"/beauty-train-first-*/results.json --out "$results/beauty"

# Speed needs no training: an untrained model of t5-small's true shape does the same work.
podx train "$runs/beauty-train-first" --out "$runs/ck-t5-small" --preset t5-small --tokenizer "$tokenizer" \
    --tasks sequential,topn --epochs 0
podx export "$runs/ck-t5-small" --out "$runs/bundle-t5-small"
podx bench "$runs/bundle-t5-small" --checkpoint "$runs/ck-t5-small" --data "$runs/beauty-train-first" \
    --out "$results/t5-small-sequential" --label "t5-small shape, Beauty" --tasks sequential --no-accuracy \
    --engines as-published,encode-once,podx --batch-sizes 1,32 --speed-users 32 --rounds 2
podx bench "$runs/bundle-t5-small" --checkpoint "$runs/ck-t5-small" --data "$runs/beauty-train-first" \
    --out "$results/t5-small-topn" --label "t5-small shape, Beauty" --tasks topn --no-accuracy \
    --engines encode-once,podx --batch-sizes 8 --speed-users 16 --rounds 2
