#!/usr/bin/env bash
# A sweep on all GPUs of several SLURM nodes: a Ray cluster with a worker for each GPU. Submit it in the repository, with
# the flags of experiments.sweep:
#
#   sbatch experiments/launch/slurm_ray.sh --stores=stores/lfw --out=sweeps/first
#
# Change: nodes and GPUs (gpus-per-node), processors and memory of a node, the time, PORT, and your site's account or
# partition. The sweep survives the loss of any node but the first; submit again to go on.
#SBATCH --job-name=jaxalign-sweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --mem=128G
#SBATCH --time=04:00:00
set -euo pipefail
PYTHON=${PYTHON:-.venv/bin/python}
WORKERS=${WORKERS:-$((SLURM_JOB_NUM_NODES * ${SLURM_GPUS_ON_NODE:-1}))}
PORT=${PORT:-6379}
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(openssl rand -hex 32)
HEAD=$(hostname --ip-address | cut -d' ' -f1)
export PYTHON PORT HEAD RAY_AUTH_MODE RAY_AUTH_TOKEN # on every node

# shellcheck disable=SC2016 # expanded on each node
srun --kill-on-bad-exit=0 bash -c '
  join=(--address="$HEAD:$PORT")
  if [ "$SLURM_PROCID" = 0 ]; then join=(--head --node-ip-address="$HEAD" --port="$PORT"); fi
  until "$(dirname "$PYTHON")/ray" start "${join[@]}" --block --disable-usage-stats; do sleep 5; done' &
trap 'kill %1 2>/dev/null || true' EXIT
until (: >"/dev/tcp/$HEAD/$PORT") 2>/dev/null; do sleep 1; done
"$PYTHON" -m experiments.sweep --workers="$WORKERS" --cluster="$HEAD:$PORT" "$@"
