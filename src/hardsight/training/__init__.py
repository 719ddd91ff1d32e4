"""Encoders are pretrained or hardened: `engine/` runs the steps, `methods/` define the loss, `criteria/` hold its formulas.

In: a recipe. Out: a run's folder, which is the encoder `run:FOLDER`. A new method is one file in `methods/`.
"""
