"""How well a bundle finds people: the field's protocol, run on the artifact that is deployed."""
