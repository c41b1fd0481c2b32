#!/bin/sh
# Speed, precision, scale and exactness: everything that bench/results/fast holds.
#
#   sh bench/fast.sh CHECKPOINT DATA TRAINED TRAINED_DATA RUNS RESULTS
#
# CHECKPOINT, DATA: an untrained model of t5-small's shape and its dataset (the last part of bench/beauty.sh makes both).
# TRAINED, TRAINED_DATA: a trained model, for what precision costs (examples/demo.sh makes a small one). RUNS: folder for
# bundles. RESULTS: folder for results and report. `make peers` must have been run. Leave the machine alone meanwhile.
set -eu
checkpoint=$1 data=$2 trained=$3 trained_data=$4 runs=$5 results=$6
mkdir -p "$runs" "$results"
quick="podx bench $runs/fp32 --variant int8=$runs/int8 --checkpoint $checkpoint --data $data --no-accuracy --spin"
ours="encode-once,podx,podx-int8,ctranslate2,ctranslate2-int8"

for precision in fp32 int8; do
    podx export "$checkpoint" --out "$runs/$precision" --precision $precision --force
    podx export "$trained" --out "$runs/trained-$precision" --precision $precision --force
done

$quick --tasks sequential --source-length 41 --engines $ours --batch-sizes 1,8,32 --speed-users 96 --rounds 3 \
    --out "$results/sequential" --label "sequential"
python "$(dirname "$0")/studies/roofline.py" "$results/sequential/results.json" --checkpoint "$checkpoint"
$quick --tasks topn --source-length 407 --engines $ours --batch-sizes 8 --speed-users 16 --rounds 2 \
    --out "$results/topn" --label "top-N"
$quick --tasks sequential --engines $ours --no-speed --stream-users 2048 --stream-batch 32 \
    --out "$results/stream" --label "the first 2,048 test users"
$quick --tasks sequential --source-length 41 --engines encode-once,podx,optimum,ort-beamsearch,torch-compile \
    --batch-sizes 1,32 --speed-users 32 --rounds 1 --out "$results/peers" --label "other peers"

podx bench "$runs/trained-fp32" --variant int8="$runs/trained-int8" --data "$trained_data" --no-speed \
    --engines podx,podx-steps,podx-int8 --tasks sequential,topn --out "$results/precision" --label "trained model"
podx bench exactness "$runs/trained-fp32" --data "$trained_data" --out "$results/exactness"
podx bench scale --items 1e4,1e5,1e6,1e7 --checkpoint "$checkpoint" --precision int8 --rounds 8 --out "$results/scale"

python -m podx_bench.report "$results"/*/results.json --scale "$results/scale/scale.json" --out "$results"
python -m podx_bench.report --ratios "$results"/*/results.json
