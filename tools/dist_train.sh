#!/usr/bin/env bash
# Train in several processes: dist_train.sh CONFIG PROCESSES [flags of train.py]
# On more than one machine, set NNODES, NODE_RANK, MASTER_ADDR and PORT.
set -euo pipefail

if [ $# -lt 2 ] || [[ ! $2 =~ ^([1-9][0-9]*|gpu|cpu|auto)$ ]]; then
    echo "usage: $0 CONFIG PROCESSES [flags of train.py]" >&2
    exit 2
fi
CONFIG=$1
PROCESSES=$2
TOOLS=$(cd "$(dirname "$0")" && pwd)

export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"
exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$PROCESSES" \
    "$TOOLS/train.py" "$CONFIG" --launcher pytorch "${@:3}"
