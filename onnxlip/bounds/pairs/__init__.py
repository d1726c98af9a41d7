"""The pair problem of SeqLip: max over d ∈ [α, β] of ‖outer diag(d) inner‖₂.

`problem` states it, `search` finds good d (estimates: lower bounds of the maximum), `exact` and
`branching` prove the maximum, `relaxation` finds multipliers, and `proof` makes a certificate of
them, rounding included.
"""
