"""What to tell of a triple fault: what faulted and why, the code around it, the registers, and what came before."""

from emu.diagnosis.report import diagnose as diagnose
