"""Certified brackets of operator norms. This package knows linear maps and no op.

brackets ── upper ── torus ── symbol        convolutions
         │        ├─ dense ── definite      matrices, and what can be written out as one
         │        └─ structure              isometries, disjoint branches
         ├─ lower                           quotients at searched vectors
         └─ induced                         p = 1, ∞
"""

from onnxlip.norms.brackets import bracket, joint

__all__ = ["bracket", "joint"]
