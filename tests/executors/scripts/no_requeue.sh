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
export ENGINE_INSIDE=1 ENGINE_OUTPUT_ROOT='/home/ada/a project/.work/slurm/name/1/outs'
export OMP_NUM_THREADS=8
set -e  # the layout's prelude
module purge
module load cuda
set +e
echo "job $SLURM_JOB_ID runs on $SLURM_JOB_NODELIST, requeued ${SLURM_RESTART_COUNT:-0} times"
ending= signalled=
trap 'ending=1 signalled=1' TERM
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
