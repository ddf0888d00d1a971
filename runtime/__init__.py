"""What an edge box needs: bundle, engines, gallery, matching, sources, stream. Never imports torch."""

import os

# Threads of OpenBLAS, which numpy multiplies with, wait for their next product in a loop of 2^26 cycles, on the
# processors where matching goes on by then (seen: 4 ms a crop on two cores). 2^4 is the least it takes.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
# ONNX Runtime 1.32 reports processor, path of the program and names of graphs to Microsoft, and keeps them in the home
# folder until it can. A machine beside cameras tells nobody. It reads this when it is first used.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
