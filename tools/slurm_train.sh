#!/usr/bin/env bash
# Train in a Slurm cluster:
#     tools/slurm_train.sh PARTITION JOB_NAME CONFIG [WORK_DIR] [ARGUMENTS OF train.py]
# Two minutes before its time is up, training stops with a checkpoint. With --resume auto, which
# begins anew where there is none, it then starts again and goes on; so does a job that is requeued.
# In the environment: GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5), SRUN_ARGS and PORT.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG [WORK_DIR] [ARGUMENTS OF train.py]" >&2
    exit 2
fi
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
shift 3
if [ $# -gt 0 ] && [[ $1 != -* ]]; then
    set -- --work-dir "$@"
fi
TOOLS=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"

GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
if [ -n "${PORT:-}" ]; then
    export MASTER_PORT=$PORT
fi
train() {
    # shellcheck disable=SC2086  # SRUN_ARGS holds several words
    srun -p "$PARTITION" \
        --job-name="$JOB_NAME" \
        --gres="gpu:$GPUS_PER_NODE" \
        --ntasks="$GPUS" \
        --ntasks-per-node="$GPUS_PER_NODE" \
        --cpus-per-task="${CPUS_PER_TASK:-5}" \
        --kill-on-bad-exit=1 \
        --signal=USR1@120 \
        ${SRUN_ARGS:-} \
        python -u "$TOOLS/train.py" "$CONFIG" --launcher slurm "$@"
}

STOPPED=138  # as shells report SIGUSR1, which scancel does not send
STATUS=0
train "$@" || STATUS=$?
while [ "$STATUS" -eq "$STOPPED" ] && [[ " $* " == *" --resume auto "* ]]; do
    STATUS=0
    train "$@" || STATUS=$?
done
exit "$STATUS"
