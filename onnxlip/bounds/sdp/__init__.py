"""Semidefinite bounds (LipSDP) of any network of affine maps and nonlinear relations."""
