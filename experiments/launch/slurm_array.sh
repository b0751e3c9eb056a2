#!/usr/bin/env bash
# A sweep by an array of SLURM jobs of one GPU each, which start whenever there is a GPU. Submit it in the repository,
# with the flags of experiments.sweep:
#
#   sbatch experiments/launch/slurm_array.sh --stores=stores/lfw --out=sweeps/first
#
# Change: the number of jobs (array), processors, memory and time of each, and your site's account or partition. More
# jobs than items do no harm: those without one end at once.
#SBATCH --job-name=jaxalign-sweep
#SBATCH --array=0-15
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=01:00:00
#SBATCH --signal=TERM@60
#SBATCH --requeue
# --signal: a minute before the time is over the process gives its item back; --requeue: preempted jobs start again.
# Without --minutes an item may begin too late to end: give less than the time above, by the length of an item.
set -euo pipefail
exec srun "${PYTHON:-.venv/bin/python}" -m experiments.sweep --minutes=50 "$@"
