#!/usr/bin/env bash
# One run of experiments.pairwise shared by the GPUs of SLURM nodes: a process for each. Submit it in the repository, with
# the flags of experiments.pairwise:
#
#   sbatch experiments/launch/slurm_pairwise.sh --store=stores/lfw --out=results/lfw
#
# Change: nodes, GPUs of a node (ntasks-per-node), processors and memory for each, the time, and your site's account or
# partition. Submit again to go on where a job was cut short. Not tried on a cluster.
#SBATCH --job-name=jaxalign-pairwise
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=4G
#SBATCH --time=04:00:00
set -euo pipefail
exec srun --kill-on-bad-exit=0 "${PYTHON:-.venv/bin/python}" -m experiments.pairwise --hosts=auto "$@"
