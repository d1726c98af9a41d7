"""python -m benchmarks.lipsdp"""

from benchmarks.lipsdp.run import main

main()
