"""Everything is named by a spec, a call written as text: parsing specs, the catalog of factories, recipes, schedules.

In: text. Out: checked calls and the objects they name. A new kind of recipe or schedule goes here; factories do not.
"""
