"""The main job with no file from outside: render, export, index, watch, report."""
