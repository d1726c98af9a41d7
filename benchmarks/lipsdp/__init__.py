"""LipSDP: general solvers against ours, published values, best bounds within a minute."""
