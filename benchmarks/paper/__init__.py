"""Every experiment of Virmaux & Scaman 2018 anew, from scripts and seeds.

    python -m benchmarks.paper [ideal] [mlp] [cnn] [alexnet] [--quick] [--data FILE] [--cache DIR]

With no name all four are run, which takes an hour or two on two cores. What was measured goes to
docs/paper/*.json, and from all of that docs/paper.md and docs/paper/*.svg are written. A quick run
measures a little of each, prints its tables and writes nothing.

published          the paper's own numbers
training           the networks: made, trained, exported
measure, child     bounds of one network as plain numbers; seconds and memory of a process
ideal, mlp, cnn, alexnet     one experiment each: what to measure, and its part of the page
figures            the plots, as SVG
run ── page        the command line; the page put together
"""
