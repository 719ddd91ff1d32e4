"""Attacks: a search, a threat model, a loss and an aim, and compositions of these.

Input: a system, images and targets. Output: an `AttackResult`. Searches are in `search/`, threats in `threats/`, corruptions
in `corruptions/`, named attacks in `presets.py`, suites of attacks in `suites.py`.
"""
