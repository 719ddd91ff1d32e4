"""Everything has a name that is a call written as text: reading specs, the catalog of what there is to name, recipes, schedules.

In: text. Out: checked calls and the objects they name. A new kind of recipe or schedule goes here; what a spec names does not.
"""
