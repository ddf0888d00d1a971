"""Person re-identification of half-hidden people, exported and run at the edge (FPC, arXiv 2211.14742).

from fpc_deploy import Bundle, Gallery, Pipeline
"""
