"""Tests of edgebuild. They compute with one thread, unless ``OMP_NUM_THREADS`` says otherwise.

OpenMP's threads wait by spinning. On nets as small as the tests' there is little but waiting: two threads took four
times the CPU of one, and many times that where the cores are shared. Set here, before anything imports torch or numpy.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
