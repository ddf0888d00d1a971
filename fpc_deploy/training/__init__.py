"""Training: the paper's two phases on a folder of images, from random or given weights to a checkpoint."""
