"""The pair problem of SeqLip: max over d ∈ [α, β] of ‖outer diag(d) inner‖₂.

`problem` states it. `search` (with `leading`, `flips`) finds good d: estimates, lower bounds of the
maximum; `picking` does so through max-pools. `exact` is brute force. `relaxation`, `interior`,
`program` and `descent` look for multipliers, `proof` makes a certificate of any, rounding included,
`certified` takes the least, and `branching` proves the maximum itself.
"""
