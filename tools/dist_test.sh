#!/usr/bin/env bash
# Evaluate a checkpoint on several GPUs:
#     tools/dist_test.sh CONFIG CHECKPOINT GPUS [ARGUMENTS OF test.py]
# With several machines, on each: NNODES, NODE_RANK, MASTER_ADDR and PORT in the environment.
# Without a GPU, GPUS is the number of processes on the CPU.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [ARGUMENTS OF test.py]" >&2
    exit 2
fi
CONFIG=$1
CHECKPOINT=$2
GPUS=$3
shift 3
[ "$GPUS" != 0 ] || { echo "$0: GPUS is 0: without a GPU give a number of processes" >&2; exit 2; }
TOOLS=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"

if [ "${NODE_RANK:-0}" != 0 ] && [ "${NNODES:-1}" = 1 ]; then
    echo "$0: NODE_RANK is $NODE_RANK, but NNODES is ${NNODES:-1}: give the number of machines" >&2
    exit 2
fi
# A machine by itself takes a port that is free, so that several runs have room on it.
MEETING=(--standalone --nnodes=1 --local_addr=127.0.0.1)
if [ -n "${PORT:-}" ] || [ "${NNODES:-1}" != 1 ]; then
    MEETING=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}"
        --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}")
fi
exec python -m torch.distributed.run "${MEETING[@]}" --nproc_per_node="$GPUS" \
    "$TOOLS/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "$@"
