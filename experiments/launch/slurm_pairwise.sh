#!/usr/bin/env bash
# One run of experiments.pairwise shared by the GPUs of SLURM nodes, one process for each GPU. Submit it in the repository,
# with the flags of experiments.pairwise:
#
#   sbatch experiments/launch/slurm_pairwise.sh --store=stores/lfw --out=results/lfw
#
# Change: nodes, GPUs of a node (ntasks-per-node), processors and memory for each, the time, and your site's account or
# partition. Not tried on a cluster.
#SBATCH --job-name=jaxalign-pairwise
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=4G
#SBATCH --time=04:00:00
#SBATCH --requeue
set -uo pipefail
# --wait: if one process ends, those that have not noticed it after a minute are killed.
srun --kill-on-bad-exit=0 --wait=60 "${PYTHON:-.venv/bin/python}" -m experiments.pairwise --hosts=auto "$@" && exit 0
status=$?
# Status 2 is a mistake, which would be made again. After anything else the job goes on from the finished parts.
if [ "$status" -ne 2 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 3 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
