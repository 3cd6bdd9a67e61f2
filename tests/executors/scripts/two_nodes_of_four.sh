#!/bin/bash
# Written and submitted by the engine; the folder's name says what for.
attempt='/home/ada/a project/.work/slurm/name/1'
if [ -e "$attempt/exit" ]; then
  echo "requeued in the moment in which it ended: nothing is left to do"
  exit 0
fi
finish() {
  printf '%s\n' "$1" > "$attempt/exit.partial" && mv "$attempt/exit.partial" "$attempt/exit"
  exit "$1"
}
cd '/home/ada/a project' || exit 1
if [ "${SLURM_RESTART_COUNT:-0}" -gt 3 ]; then
  echo "requeued $SLURM_RESTART_COUNT times, and the layout's max_requeues is 3: giving up" >&2
  finish 1
fi
export ENGINE_INSIDE=1 ENGINE_OUTPUT_ROOT='/home/ada/a project/.work/slurm/name/1/outs'
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(scontrol --oneliner show node "$head" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
if [ -z "$address" ]; then
  echo "scontrol does not say the address of the first node, '$head': the nodes cannot meet" >&2
  finish 1
fi
port=$((20000 + (SLURM_JOB_ID * 7 + ${SLURM_RESTART_COUNT:-0}) % 10000))
export PET_RDZV_ID="$SLURM_JOB_ID" PET_RDZV_ENDPOINT="$address:$port"  # torchrun's options
echo "job $SLURM_JOB_ID runs on $SLURM_JOB_NODELIST, requeued ${SLURM_RESTART_COUNT:-0} times"
ending= signalled=
trap 'ending=1 signalled=1' TERM
trap 'signalled=1; echo "SIGUSR2: the job will be requeued"; scontrol requeue "$SLURM_JOB_ID"' USR2
srun --ntasks-per-node=1 ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"} --kill-on-bad-exit=1 --label '/home/ada/a project/.venv/bin/python' -m torch.distributed.run --nproc-per-node=4 --max-restarts=0 --nnodes=2 --rdzv-backend=c10d -m engine pretrain --seed 0 &
child=$!
while :; do
  signalled=
  wait "$child"
  code=$?
  [ -n "$signalled" ] || break
done
trap '' USR2
[ -z "$ending" ] || exit "$code"
finish $code
