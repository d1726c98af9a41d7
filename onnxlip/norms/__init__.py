"""Certified brackets of operator norms. This package knows linear maps and no op.

schedule ── brackets ── upper ── torus ── symbol, peaks convolutions
         │           │        │       └─ border         … on small images: frame, modes,
         │           │        │                           border_search, border_sites
         │           │        ├─ dense ── definite      matrices, and what can be written out as one
         │           │        ├─ merging                composed maps as one: grid, kernels
         │           │        └─ structure              isometries, disjoint branches
         │           ├─ lower ── krylov, lifting        quotients at searched vectors
         │           └─ induced                         p = 1, ∞
         └─ confidence ── probabilistic                 upper bounds that fail with probability δ
"""

from onnxlip.norms.brackets import bracket, joint, probabilistic_bracket
from onnxlip.norms.torus import any_size_bound

__all__ = ["any_size_bound", "bracket", "joint", "probabilistic_bracket"]
