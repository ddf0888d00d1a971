"""Inference engines behind one protocol: a graph goes in, named arrays in, named arrays out."""

from runtime.engines.protocol import Engine, TensorSpec
from runtime.engines.selection import open_engine, open_graph, resolve_engine

__all__ = ["Engine", "TensorSpec", "open_engine", "open_graph", "resolve_engine"]
