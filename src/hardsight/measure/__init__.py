"""Measurement: plan the cells of a recipe, measure the missing ones, audit the results, compare arms of a study.

In: a recipe. Out: rows in a store. A new audit check goes into `checks/`; a new kind of measurement is a file here.
"""
