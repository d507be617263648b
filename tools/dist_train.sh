#!/usr/bin/env bash
# Train on several GPUs (or, without GPUs, in several processes on the CPU):
#   tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# On each of several machines: NNODES=2 NODE_RANK=0 MASTER_ADDR=... PORT=29500 tools/dist_train.sh CONFIG GPUS
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [arguments of tools/train.py]" >&2
    exit 2
fi
if ! [[ $2 =~ ^[1-9][0-9]*$ ]]; then
    echo "$0: GPUS, the number of processes on this machine, is a positive integer, received '$2'" >&2
    exit 2
fi
here=$(dirname "$0")

PYTHONPATH="$here/..:${PYTHONPATH:-}" exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$2" \
    "$here/train.py" "$1" --launcher pytorch "${@:3}"
