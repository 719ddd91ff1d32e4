"""Encoders are pretrained or hardened: `engine/` runs the steps, `methods/` say what a step minimises, `criteria/` are its formulas.

In: a recipe. Out: a run's folder, which is the encoder `run:FOLDER`. A new method is one file in `methods/`.
"""
