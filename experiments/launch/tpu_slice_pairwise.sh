#!/usr/bin/env bash
# One run of experiments.pairwise shared by all hosts of a TPU pod slice. Run it where gcloud is, with the flags of
# experiments.pairwise:
#
#   TPU=my-slice ZONE=us-west4-a experiments/launch/tpu_slice_pairwise.sh --store=/nfs/stores/lfw --out=/nfs/results/lfw
#
# Change: TPU and ZONE; REPOSITORY, where jaxalign is on every host with its .venv (pip install -e . 'jax[tpu]'). --store is
# on a file system that all hosts mount, or a copy at one path on each. Not tried on a TPU.
set -uo pipefail
: "${TPU:?the name of the slice}" "${ZONE:?its zone}"
REPOSITORY=${REPOSITORY:-jaxalign}

quoted=$(printf ' %q' "$@")
command="cd $(printf %q "$REPOSITORY") && .venv/bin/python -m experiments.pairwise --hosts=auto$quoted"
# Status 2 is a mistake, which would be made again. After anything else the run goes on from the finished parts.
for _ in 1 2 3; do
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$command" && exit 0
  status=$?
  [ "$status" -ne 2 ] || break
done
exit "$status"
