#!/usr/bin/env bash
# Makes the result files of latency, memory and roofline that the README and docs quote (docs/benchmarks.md), in six to
# eleven minutes on two cores that do nothing else:
#
#     benchmarks/own_results.sh [CHECKPOINT] [PEER.safetensors]
#
# CHECKPOINT is the folder that the shipped model was exported from, PEER the weights that training/peer_unet.py left.
# Without them PyTorch's times of the model, or the trained peer, are missing. ITERATIONS, PEER_ITERATIONS and RESULTS
# (a folder) can be set. Results appear when all are done; the exit status is 3 if the machine was too noisy for one.
set -uo pipefail
cd "$(dirname "$0")/.."
FP32=models/emra-ti-dubai.onnx
INT8=emra_deploy/models/emra-ti-dubai.int8.onnx
# Of both files; the checkpoint takes any size, and the peers shall see the same pictures.
SIZE=296
DATA=${EMRA_DUBAI:-data/dubai}
RESULTS=${RESULTS:-benchmarks/results}
PYTHON=${PYTHON:-python}
BACKENDS=onnxruntime,openvino:f32,openvino:bf16
CHECKPOINT=${1:-}
PEERS=smp-segformer-b2,smp-unet-resnet34,timm-vit-base${2:+,smp-unet-resnet18@512=$2}
NEW=$(mktemp -d)
trap 'rm -rf "$NEW"' EXIT
failed=0

run() {
  printf '%s  %s\n' "$(date +%T)" "$*" >&2
  "$PYTHON" "$@" || failed=1
}

# Scores of what is timed, for the chart. They do not depend on the machine's mood, so they are made once.
for model in "$FP32" "$INT8"; do
  for how in onnxruntime openvino-bf16; do
    kept=accuracy-$(basename "$model" .onnx)-$how.json
    if [ -d "$DATA" ] && ! grep -qs "$(sha256sum "$model" | cut -d' ' -f1)" "$RESULTS/$kept"; then
      run benchmarks/accuracy.py "$model" --data "$DATA" --backend "${how%-bf16}" \
        $([ "$how" = openvino-bf16 ] && echo --precision bf16) --json "$NEW/$kept"
    fi
  done
done
run benchmarks/latency.py "$FP32" "$INT8" --backend "$BACKENDS" --iterations "${ITERATIONS:-100}" --profile \
  --json "$NEW/latency-emra-ti-dubai.json" --plot "$NEW/latency-emra-ti-dubai.svg"
run benchmarks/latency.py "$FP32" "$INT8" ${CHECKPOINT:+"$CHECKPOINT"} --peer "$PEERS" \
  --sizes "$SIZE" --backend onnxruntime,openvino:bf16,torch,torch-compile --iterations "${PEER_ITERATIONS:-30}" --warmup 5 \
  --json "$NEW/latency-peers.json"
run benchmarks/memory.py "$FP32" "$INT8" --backend "$BACKENDS" --batch 1,4 --json "$NEW/memory-emra-ti-dubai.json"
run benchmarks/roofline.py "$FP32" "$INT8" --backend "$BACKENDS" \
  --json "$NEW/roofline-emra-ti-dubai.json" --plot "$NEW/roofline-emra-ti-dubai.svg"

# Only now: results that appear meanwhile would make the revision of the later ones one with changed files.
mkdir -p "$RESULTS"
cp "$NEW"/* "$RESULTS"/
results=("$RESULTS"/{latency,memory,roofline,accuracy}-*.json)
run benchmarks/report.py "${results[@]}" --html "$RESULTS/report.html" --plot "$RESULTS/accuracy-latency.svg" --overwrite
if grep -l '"quiet": false' "$NEW"/*.json >&2; then
  echo "the machine was too noisy for these: measure again" >&2
  exit 3
fi
exit "$failed"
