#!/usr/bin/env bash
# Evaluate a checkpoint on several GPUs, or machines: see dist_run.sh.
#     tools/dist_test.sh CONFIG CHECKPOINT GPUS [ARGUMENTS OF test.py]
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [ARGUMENTS OF test.py]" >&2
    exit 2
fi
TOOLS=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
. "$TOOLS/dist_run.sh"
run_in_processes "$3" test.py "$1" "$2" --launcher pytorch "${@:4}"
