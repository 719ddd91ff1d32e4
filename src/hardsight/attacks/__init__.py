"""Attacks: a search, in a threat, raising a loss, with an aim; and what is put together from these.

In: a system, images and targets. Out: an `AttackResult`. A search goes to `search/`, a threat to `threats/`, a corruption to
`corruptions/`, a named attack to `presets.py`, a suite of attacks to `suites.py`.
"""
