#!/bin/sh
# Speed of untrained models of t5-small's shape on a CPU, beside eager PyTorch and other libraries: bench/results/speed.
#
#   sh bench/speed.sh INTERACTIONS TOKENIZER RUNS RESULTS
#
# INTERACTIONS: whatever `podx data prepare` reads; explanations are of a synthetic world. TOKENIZER: T5's own model of
# sentencepiece. RUNS: folder for data,
# checkpoints and bundles, which are kept and used again. RESULTS: folder for results and the report. `make peers` must
# have been run. Takes about half an hour on two cores; leave the machine alone meanwhile.
set -eu
interactions=$1 tokenizer=$2 runs=$3 results=$4
mkdir -p "$runs" "$results"
small="--preset t5-small --epochs 0"

[ -d "$runs/data" ] || podx data prepare "$interactions" --out "$runs/data"
[ -d "$runs/world" ] || podx data synth --out "$runs/world"
[ -d "$runs/coded" ] || podx data index "$runs/data" --collaborative --out "$runs/coded"
# checkpoint NAME COMMAND…: unless it is there; its bundles in fp32 and int8
checkpoint() {
    name=$1 && shift
    [ -d "$runs/$name" ] || "$@" --out "$runs/$name"
    for precision in fp32 int8; do
        [ -d "$runs/$name-$precision" ] || podx export "$runs/$name" --out "$runs/$name-$precision" --precision $precision
    done
}
# shellcheck disable=SC2086 # several words
{
    checkpoint one podx train "$runs/data" --recipe fast $small
    checkpoint codes podx train "$runs/coded" --recipe large-catalog $small
    checkpoint told podx train "$runs/world" --recipe paper --tasks explanation --tokenizer "$tokenizer" $small
    checkpoint numbers podx train "$runs/data" --recipe paper --tasks sequential --tokenizer "$tokenizer" $small
}
checkpoint student podx distill "$runs/codes" --data "$runs/coded" --decoder-layers 2 --epochs 0

# measure NAME MODEL DATA LABEL OPTIONS…
measure() {
    name=$1 model=$2 data=$3 label=$4 && shift 4
    podx bench "$runs/$model-fp32" --variant int8="$runs/$model-int8" --checkpoint "$runs/$model" --data "$runs/$data" \
        --no-accuracy --spin --rounds 2 --tasks sequential "$@" --out "$results/$name" --label "$label"
}
ours="encode-once,encode-once-unfused,podx,podx-int8"
measure one one data "a token an item" --engines $ours --batch-sizes 1,32 --speed-users 64
measure codes codes coded "three codes an item" --engines $ours --batch-sizes 1,32 --speed-users 64
measure numbers numbers data "item numbers" --engines $ours,ctranslate2,ctranslate2-int8,openvino,openvino-t5,optimum,ort-beamsearch \
    --source-length 41 --batch-sizes 1,32 --speed-users 32
measure topn one data "100 candidates, a token an item" --tasks topn --engines $ours --batch-sizes 8 --speed-users 64
# explanations: int8 first, over the tokens of the training's explanations (few in this world) and over all
for batch in 1 32; do
    podx bench "$runs/told-int8" --variant fp32="$runs/told-fp32" --checkpoint "$runs/told" --data "$runs/world" \
        --tasks explanation --engines encode-once,encode-once-unfused,podx,podx-vocabulary,podx-fp32,ctranslate2,ctranslate2-int8 \
        --spin --no-accuracy --rounds 2 --batch-sizes $batch --speed-users $((batch > 6 ? batch : 6)) \
        --out "$results/explanations-$batch" --label "explanations, batches of $batch"
done
measure student student coded "three codes, two decoder layers" --engines podx,podx-int8 --batch-sizes 1,32 --speed-users 64
for beams in 10 50 100 200; do
    measure beams-$beams codes coded "$beams beams" --beams $beams --engines podx,podx-int8 --batch-sizes 1,32 --speed-users 64
done
python -m podx_bench.report "$results"/*/results.json --out "$results"
python -m podx_bench.report --ratios "$results"/*/results.json
