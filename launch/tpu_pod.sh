#!/bin/bash
# A run on all hosts of a Cloud TPU slice, from a machine with gcloud:
#
#     launch/tpu_pod.sh NAME ZONE --config=configs/adpo.py --workdir=/mnt/shared/runs/adpo
#
# The package is installed on each host, in the current folder of the user there, and the run directory lies where all
# hosts see it. What the first process prints is shown; the same command goes on with what was saved.
set -euo pipefail
name=$1 zone=$2
shift 2
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="python3 -m narrative_jax.launch$(printf ' %q' "$@")"
