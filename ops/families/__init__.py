"""Formulas that several ops share; rule modules, yours included, build their forms with them."""
