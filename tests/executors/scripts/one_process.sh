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
if [ "${SLURM_RESTART_COUNT:-0}" -gt 50 ]; then
  echo "requeued $SLURM_RESTART_COUNT times, and the layout's max_requeues is 50: giving up" >&2
  finish 1
fi
export ENGINE_INSIDE=1 ENGINE_OUTPUT_ROOT='/home/ada/a project/.work/slurm/name/1/outs'
echo "job $SLURM_JOB_ID runs on $SLURM_JOB_NODELIST, requeued ${SLURM_RESTART_COUNT:-0} times"
ending= signalled=
trap 'ending=1 signalled=1' TERM
trap 'signalled=1; echo "SIGUSR2: the job will be requeued"; scontrol requeue "$SLURM_JOB_ID"' USR2
'/home/ada/a project/.venv/bin/python' -m engine pretrain --seed 0 &
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
