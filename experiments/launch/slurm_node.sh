#!/usr/bin/env bash
# A sweep on the GPUs of one SLURM node: a process for each. Submit it in the repository, with the flags of
# experiments.sweep:
#
#   sbatch experiments/launch/slurm_node.sh --stores=stores/lfw --out=sweeps/first
#
# Change: the number of GPUs (ntasks), processors and memory for each, the time, and your site's account or partition.
#SBATCH --job-name=jaxalign-sweep
#SBATCH --nodes=1
#SBATCH --ntasks=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=4G
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@60
# --signal: a minute before the time is over each process gives its item back. Submit again to go on.
set -euo pipefail
exec srun --kill-on-bad-exit=0 "${PYTHON:-.venv/bin/python}" -m experiments.sweep "$@"
