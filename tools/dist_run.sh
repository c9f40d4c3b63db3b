# shellcheck shell=bash
# For dist_train.sh and dist_test.sh, which source this: run_in_processes GPUS SCRIPT [ARGUMENTS].
# With several machines, on each: NNODES, NODE_RANK, MASTER_ADDR and PORT in the environment.
# Without a GPU, GPUS is the number of processes on the CPU.

run_in_processes() {
    local gpus=$1 script=$2
    shift 2
    [ "$gpus" != 0 ] || { echo "$0: GPUS is 0: without a GPU give a number of processes" >&2; exit 2; }
    if [ "${NODE_RANK:-0}" != 0 ] && [ "${NNODES:-1}" = 1 ]; then
        echo "$0: NODE_RANK is $NODE_RANK, but NNODES is ${NNODES:-1}: give the number of machines" >&2
        exit 2
    fi
    # A machine by itself takes a port that is free, so that several runs have room on it.
    local meeting=(--standalone --nnodes=1 --local_addr=127.0.0.1)
    if [ -n "${PORT:-}" ] || [ "${NNODES:-1}" != 1 ]; then
        meeting=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}"
            --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}")
    fi
    export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"
    exec python -m torch.distributed.run "${meeting[@]}" --nproc_per_node="$gpus" \
        "$TOOLS/$script" "$@"
}
