"""Certified brackets of operator norms. This package knows linear maps and no op.

brackets ── upper ── torus ── symbol        convolutions
         │        │  └─ border              … its border released: modes, border_search, frame
         │        ├─ dense ── definite      matrices, and what can be written out as one
         │        └─ structure              isometries, disjoint branches
         ├─ lower ── krylov, lifting        quotients at searched vectors
         ├─ probabilistic                   upper bounds that fail with probability δ: kept apart
         └─ induced                         p = 1, ∞
"""

from onnxlip.norms.brackets import bracket, joint, probabilistic_bracket

__all__ = ["bracket", "joint", "probabilistic_bracket"]
