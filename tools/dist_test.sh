#!/usr/bin/env bash
# Test in several processes: dist_test.sh CONFIG CHECKPOINT PROCESSES [flags of test.py]
# On more than one machine, set NNODES, NODE_RANK, MASTER_ADDR and PORT.
set -euo pipefail

if [ $# -lt 3 ] || [[ ! $3 =~ ^([1-9][0-9]*|gpu|cpu|auto)$ ]]; then
    echo "usage: $0 CONFIG CHECKPOINT PROCESSES [flags of test.py]" >&2
    exit 2
fi
CONFIG=$1
CHECKPOINT=$2
PROCESSES=$3
TOOLS=$(cd "$(dirname "$0")" && pwd)

export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"
exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$PROCESSES" \
    "$TOOLS/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
