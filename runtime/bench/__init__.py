"""Times a bundle on the machine at hand, stage by stage, beside the least time that the machine could need."""
