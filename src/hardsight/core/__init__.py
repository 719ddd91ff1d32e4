"""What every room may use: errors, seeds, trees of tensors, the machine, progress, and where a training run stands.

In: nothing of this package. A new file belongs here only if rooms on different floors need it.
"""
