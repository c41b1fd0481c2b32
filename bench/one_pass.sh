#!/bin/sh
# Accuracy of the default recipe, next item and 100 candidates, with several seeds: a token an item, and items as codes.
#
#   sh bench/one_pass.sh INTERACTIONS RUNS RESULTS [MINUTES] [SEEDS]
#
# INTERACTIONS: whatever `podx data prepare` reads. RUNS: folder for data, checkpoints and bundles. RESULTS: folder for
# the report. MINUTES: of each training at most (default 25: one core takes so long for what two do in fifteen). SEEDS:
# default "0 1 2". Two trainings go side by side, one thread each, and SASRec beside the first of them. Stopped and
# called again, it goes on where it was. SASRec needs `make peers-sasrec`, and is left out without.
set -eu
interactions=$1 runs=$2 results=$3 minutes=${4:-25} seeds=${5:-0 1 2}
export OMP_NUM_THREADS=1
mkdir -p "$runs" "$results"
[ -d "$runs/data" ] || podx data prepare "$interactions" --out "$runs/data"
[ -d "$runs/one-token" ] || podx data index "$runs/data" --one-token --out "$runs/one-token"
[ -d "$runs/coded" ] || podx data index "$runs/data" --collaborative --out "$runs/coded"

sasrec=${PODX_SASREC:-.venv-sasrec}/bin/python
peers=
if [ -x "$sasrec" ]; then
    peers="--peer $runs/sasrec-0.json@$runs/data"
    [ -f "$runs/sasrec-0.json" ] || # as the public reproduction of .0897 / .0539 trains it, until it stops by itself
        "$sasrec" "$(dirname "$0")/sasrec/sasrec.py" "$runs/data" --out "$runs/sasrec-0.json" --seed 0 --lr 1e-3 \
            --batch-size 256 --heads 1 --dropout 0.2 --minutes 120 &
fi

# train NAME DATA SEED RECIPE: a training and its bundle, in the background
train() {
    {
        podx train "$runs/$2" --out "$runs/$1" --recipe "$4" --seed "$3" --max-minutes "$minutes" --resume
        [ -d "$runs/bundle-$1" ] || podx export "$runs/$1" --out "$runs/bundle-$1"
    } &
}
for seed in $seeds; do
    train "fast-$seed" one-token "$seed" fast
    fast=$!
    train "codes-$seed" coded "$seed" large-catalog
    wait "$fast" # unlike a bare wait, this fails where the training did
    wait "$!"
done
wait
unset OMP_NUM_THREADS
for seed in $seeds; do
    set -- "$@" "one pass, a token an item=$runs/bundle-fast-$seed@$runs/one-token" \
        "one pass, collaborative codes=$runs/bundle-codes-$seed@$runs/coded"
done
shift "$(($# - 2 * $(echo "$seeds" | wc -w)))"
# shellcheck disable=SC2086 # $peers is two words, or none
podx bench accuracy "$@" $peers --threads 1 --unconstrained-users 0 --out "$results"
