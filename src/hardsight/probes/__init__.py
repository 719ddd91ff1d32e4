"""A head on an encoder: trained on cached features (`linear`), or through the pixels, clean or attacked (`tuned`).

In: an encoder, a task and data. Out: a `System`. Another way to fit one is a file here with a factory `-> Probe`.
"""
