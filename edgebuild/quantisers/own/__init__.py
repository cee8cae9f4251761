"""Our int8: one calibrator and one explicit Q/DQ writer; every choice is made by the error at the model's outputs.

Read in this order: ``placement`` (what is quantised), ``simulator`` (the float graph with every scale, weight and bias
as an input), ``ladder`` (the rungs, each kept only if it helps), ``writer`` (the file).
"""
