"""python -m benchmarks.norms"""

from benchmarks.norms.run import main

main()
