"""Training a head on an encoder: on cached features (`linear`), or end to end on clean or attacked images (`tuned`).

In: an encoder, a task and data. Out: a `System`. Another training protocol is a new file here with a factory `-> Probe`.
"""
