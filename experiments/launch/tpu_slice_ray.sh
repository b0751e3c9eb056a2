#!/usr/bin/env bash
# A sweep on all chips of a TPU pod slice: a Ray cluster with a worker for each chip. Run it where gcloud is, with the
# flags of experiments.sweep:
#
#   TPU=my-slice ZONE=us-west4-a CHIPS=16 experiments/launch/tpu_slice_ray.sh --stores=/nfs/lfw --out=/nfs/sweeps/first
#
# Change: TPU, ZONE and CHIPS of the slice; REPOSITORY, where jaxalign is on every host with its .venv
# (pip install -e '.[cluster]' 'jax[tpu]'). All hosts see --stores at one path; --out is read and written by the first.
set -euo pipefail
: "${TPU:?the name of the slice}" "${ZONE:?its zone}" "${CHIPS:?its number of chips}"
REPOSITORY=${REPOSITORY:-jaxalign}
at=(gcloud compute tpus tpu-vm)
token=$(openssl rand -hex 32)
head=$("${at[@]}" describe "$TPU" --zone="$ZONE" --format='value(networkEndpoints[0].ipAddress)')
on() { # on WORKER COMMAND: at that host of the slice, or at "all"
  "${at[@]}" ssh "$TPU" --zone="$ZONE" --worker="$1" --command="cd $(printf %q "$REPOSITORY") &&
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$token PATH=\$PWD/.venv/bin:\$PATH && $2"
}

trap 'on all "ray stop"' EXIT
on 0 "ray start --head --node-ip-address=$head --port=6379"
on all "hostname -I | grep -qwF $head || ray start --address=$head:6379"
on 0 "python -m experiments.sweep --workers=$CHIPS --cluster=$head:6379 $(printf ' %q' "$@")"
