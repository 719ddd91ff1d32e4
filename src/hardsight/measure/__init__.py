"""Cells: which are missing, measuring them, doubting the result, comparing arms.

In: a recipe. Out: rows in a store. A new check of the audit goes to `checks/`; a new question about an encoder is a file here.
"""
