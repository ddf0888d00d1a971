"""Numbers of the materials a person's mesh is made of."""

SKIN, HEAD, HAIR, TORSO, PELVIS, SLEEVE_LEFT, SLEEVE_RIGHT, LEG, SKIRT, SHOE, BAG, BAG_STRAP, HAT, SOCK = range(14)
