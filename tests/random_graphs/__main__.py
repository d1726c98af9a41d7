"""A longer hunt: `python -m tests.random_graphs FIRST LAST` tells the seeds that fail, and how."""

import sys
import traceback
import warnings
from collections import Counter

from tests.random_graphs.check import check


def main(first: int, last: int) -> int:
    warnings.filterwarnings("error", module="onnxlip")  # as in the configuration of pytest
    seen: Counter[str] = Counter()
    for seed in range(first, last):
        if seed % 100 == 0:  # a runtime that ends the process leaves a trace of where it did
            print(f"from seed {seed} on", flush=True)
        try:
            outcome = check(seed)
        except Exception as error:
            seen["crashes"] += 1
            print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)
            traceback.print_exc(limit=-4)
            continue
        kind, _, reason = outcome.refusal.partition(": ")
        seen[f"refused by {kind}" if kind else "analysed"] += 1
        if kind == "ModelError":  # a graph is valid: such a refusal is worth a look
            print(f"seed {seed}: {reason}", flush=True)
        seen["bounds that a quotient comes near"] += outcome.reached > 0.9
        if outcome.exceeding:
            seen["bounds exceeded"] += 1
            ops = " ".join(node.op_type for node in outcome.model.graph.node)
            print(f"seed {seed}: {outcome.exceeding[0]}; ops: {ops}", flush=True)
    print(", ".join(f"{what}: {count}" for what, count in seen.items()))
    return int(bool(seen["crashes"] or seen["bounds exceeded"]))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
