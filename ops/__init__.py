"""All that onnxlip knows about ops: one module per op, or per family that shares a formula.

Imported as `onnxlip.ops`. To add an op, add one file with a tuple RULES; nothing else changes.
"""

if __name__ != "onnxlip.ops":
    raise ImportError(
        "this package is imported as 'onnxlip.ops', not as 'ops': install onnxlip "
        "(pip install -e .) and do not put its source folder on the path of packages"
    )
