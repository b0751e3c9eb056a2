#!/usr/bin/env bash
# A sweep on one TPU VM: a process for each chip, which work independently of each other. Run it on the VM, in the
# repository, with the flags of experiments.sweep:
#
#   CHIPS=8 experiments/launch/tpu_vm.sh --stores=stores/lfw --out=sweeps/first
#
# Change: CHIPS, the number of chips of this VM (v5litepod-8: 8, v4-8: 4); PYTHON, if it is not in .venv.
set -euo pipefail
CHIPS=${CHIPS:-$(find /dev -maxdepth 1 -name 'accel*' 2>/dev/null | wc -l)}
PYTHON=${PYTHON:-.venv/bin/python}
if ((CHIPS < 1)); then
  echo "no TPU chip found in /dev; give their number as CHIPS=" >&2
  exit 2
fi

# The topology of a single chip, whatever the VM is part of; without it libtpu waits for the other hosts of a slice.
export TPU_CHIPS_PER_PROCESS_BOUNDS=1,1,1 TPU_PROCESS_BOUNDS=1,1,1
export TPU_SKIP_MDS_QUERY=1 TPU_WORKER_HOSTNAMES=localhost TPU_WORKER_ID=0

pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' INT TERM # each gives its item back
for ((chip = 0; chip < CHIPS; chip++)); do
  port=$((8476 + chip))
  TPU_VISIBLE_DEVICES=$chip TPU_MESH_CONTROLLER_ADDRESS=localhost:$port TPU_MESH_CONTROLLER_PORT=$port \
    "$PYTHON" -m experiments.sweep "$@" &
  pids+=($!)
done

status=0
for pid in "${pids[@]}"; do
  wait "$pid" || status=$?
done
exit "$status"
