#!/usr/bin/env bash
# A sweep as an array of SLURM jobs with one GPU each: every job computes its part of the items. Submit it in the
# repository, with the flags of experiments.sweep:
#
#   sbatch experiments/launch/slurm_array.sh --stores=stores/lfw --out=sweeps/first
#
# Change: the number of jobs (array, from 1), processors, memory and time of each, and your site's account or partition.
# A job that was preempted or ran out of time goes on where it stopped: --requeue, or submit again.
#SBATCH --job-name=jaxalign-sweep
#SBATCH --array=1-16
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=01:00:00
#SBATCH --requeue
set -euo pipefail
exec srun "${PYTHON:-.venv/bin/python}" -m experiments.sweep \
  --part="$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" "$@"
