"""Lower bounds of the Lipschitz constant: quotients that are attained at points."""
