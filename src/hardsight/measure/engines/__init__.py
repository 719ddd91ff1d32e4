"""Where worker processes run: on this machine, on a Slurm cluster, on a Ray cluster; one file each, behind one small protocol.

In: calls of a function. Out: what each returned, as they end; `base` has the protocol. Another engine belongs here.
"""
