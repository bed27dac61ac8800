#!/bin/bash
# A run on a Slurm cluster, one process a GPU:
#
#     sbatch --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 launch/slurm.sh --config=configs/adpo.py --workdir=/shared/adpo
#
# All flags go to narrative_jax.launch; the run directory lies where all nodes see it. Two minutes before its time is over
# a job saves and puts itself into the queue again, and goes on where it was; likewise where a process was lost.
# Give it no --redo, which would begin anew each time.
#SBATCH --job-name=narrative_jax
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --output=%x-%j.log

srun python -m narrative_jax.launch "$@"
code=$?
if [ $code -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
