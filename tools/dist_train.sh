#!/usr/bin/env bash
# Train on several GPUs, or machines: see dist_run.sh.
#     tools/dist_train.sh CONFIG GPUS [ARGUMENTS OF train.py]
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [ARGUMENTS OF train.py]" >&2
    exit 2
fi
TOOLS=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
. "$TOOLS/dist_run.sh"
run_in_processes "$2" train.py "$1" --launcher pytorch "${@:3}"
