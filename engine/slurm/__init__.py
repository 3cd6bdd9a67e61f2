"""A stage as a Slurm job: the batch script, Slurm's commands, and the process that submits, attaches and watches.

Everything of a job lies under ``.work/slurm/<job name>``, one numbered folder an attempt: its script, its log, its
exit code, and its outs until they are published. The name holds all that tells jobs apart, so that a second process
finds the job that a first one submitted.
"""

from engine.slurm.cancel import cancel
from engine.slurm.driver import submit_or_attach
from engine.slurm.script import Allocation
from engine.slurm.watch import Detached

__all__ = ["Allocation", "Detached", "cancel", "submit_or_attach"]
