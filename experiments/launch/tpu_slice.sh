#!/usr/bin/env bash
# A sweep on all hosts of a TPU pod slice. Run it where gcloud is, with the flags of experiments.sweep:
#
#   TPU=my-slice ZONE=us-west4-a experiments/launch/tpu_slice.sh --stores=/nfs/stores/lfw --out=/nfs/sweeps/first
#
# Change: TPU and ZONE; REPOSITORY, where jaxalign is on every host with its .venv (pip install -e . 'jax[tpu]');
# CHIPS, the number of chips of *one* host (v5litepod-16: 4). --stores and --out must be on a file system that all
# hosts mount, such as Filestore (NFS); a bucket mounted by gcsfuse is not enough, see docs/sweep.md.
set -euo pipefail
: "${TPU:?the name of the slice}" "${ZONE:?its zone}"
REPOSITORY=${REPOSITORY:-jaxalign}
CHIPS=${CHIPS:-4}

quoted=$(printf ' %q' "$@")
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
  --command="cd $(printf %q "$REPOSITORY") && CHIPS=$CHIPS experiments/launch/tpu_vm.sh$quoted"
