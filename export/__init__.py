"""From a torch checkpoint to proven ONNX graphs and engines. Needs the extra `export`."""
